"""The tasks of examples/ run, in parallel, on claims that examples/load-data.yaml fills."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kubectl import Kubectl, eventually
from support.tiny_models import write_tiny_models

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DATA = ROOT.parent / "shared" / "data"

FILES = sorted(
    str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.yaml") if file.name != "kustomization.yaml"
)
RUN_ELSEWHERE = {
    "quickstart.yaml": "run by test_life",
    "go-emotions-minilm.yaml": "run by `make demo`, where its data are at hand",
    "tickets-minilm.yaml": "run by test_command_line",
    "table-from-s3.yaml": "run by the unit tests of the trainer's downloads",
    "load-data.yaml": "no task, but the data of the others",
    "serve.yaml": "no task: checked with the unit tests of the repository",
    "batch-predict.yaml": "no task: checked with the unit tests of the repository",
    "kserve.yaml": "no task, and needs KServe: checked with the unit tests of the repository",
}
# Of a kind that another example has: `make test-full` runs them.
ALIKE = [
    *(f"transformers/{family}.yaml" for family in ("albert", "bert", "distilbert", "roberta")),
    *(f"classical/{model}.yaml" for model in ("linear-svc", "random-forest")),
]
# Several must fit on two cores.
RESOURCES = {"cpu": "300m", "memory": "1Gi"}


def manifests(example: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / example).read_text(encoding="utf-8")))


def get_skip_reason(example: str) -> str | None:
    """Return why an example does not run here, None when it does."""
    if example in RUN_ELSEWHERE:
        return RUN_ELSEWHERE[example]
    if example in ALIKE and os.environ.get("TRAININGTASK_TESTS") != "full":
        return "takes long: make test-full"
    spec = manifests(example)[-1]["spec"]
    if "hub" in spec["dataset"]:
        return "no hub is at hand"
    if "image" in spec and "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        return "needs the local cluster (make test-cluster): its image is built there"
    folder = spec["dataset"].get("path", "").removesuffix("_raw")
    if folder in ("go_emotions", "cross_validated") and not (DATA / folder).is_dir():
        return f"no {folder} in {DATA.name}/ beside the repository"
    return None


@pytest.fixture(scope="module")
def claims(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Create the examples' claims, with data, and with tiny models instead of pretrained ones."""
    kubectl.apply(manifests("quickstart.yaml")[0])
    *loaded, pod = manifests("load-data.yaml")
    # The local cluster has only images that it built.
    pod["spec"]["containers"][0]["image"] = os.environ.get("TRAININGTASK_IMAGE_TRAINER", "debian:trixie-slim")
    kubectl.apply(*loaded, pod)
    kubectl("wait", "pod/load-data", "--for=condition=Ready", "--timeout=600s", timeout=610)
    data = [EXAMPLES / "data" / "tickets.csv", EXAMPLES / "data" / "poems.txt", DATA / "cross_validated"]
    if (DATA / "go_emotions").is_dir():
        raw = tmp_path_factory.mktemp("raw") / "go_emotions_raw"
        write_raw(DATA / "go_emotions", raw)
        data += [DATA / "go_emotions", raw]
    for source in filter(Path.exists, data):
        kubectl("cp", str(source), f"load-data:/training-data/{source.name}")
    for model in write_tiny_models(tmp_path_factory.mktemp("models")).iterdir():
        kubectl("cp", str(model), f"load-data:/pretrained-models/{model.name}")
    kubectl("delete", "pod", "load-data")
    yield
    names = [claim["metadata"]["name"] for claim in loaded]
    kubectl("delete", "persistentvolumeclaim", *names, "--wait=false")


def write_raw(source: Path, folder: Path) -> None:
    """Write texts of the simplified configuration in the layout of the raw one, with two raters who agree."""
    folder.mkdir()
    labels = (source / "labels.txt").read_text(encoding="utf-8").split()
    with (folder / "goemotions_1.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "rater_id", *labels])
        for line in (source / "dev.tsv").read_text(encoding="utf-8").splitlines()[:2000]:
            text, indexes, _ = line.split("\t")
            chosen = [int(str(index) in indexes.split(",")) for index in range(len(labels))]
            writer.writerows([text, rater, *chosen] for rater in (1, 2))


@pytest.fixture(scope="module")
def tasks(kubectl: Kubectl, claims: None) -> Iterator[dict[str, str]]:
    """Apply all examples that are to run and return their tasks' names."""
    names = {}
    for example in FILES:
        if get_skip_reason(example) is not None:
            continue
        folder = (EXAMPLES / example).parent
        if (folder / "kustomization.yaml").exists():
            objects = list(yaml.safe_load_all(kubectl("kustomize", str(folder))))
        else:
            objects = manifests(example)
        [task] = (item for item in objects if item["kind"] == "TrainingTask")
        if "image" in task["spec"]:
            task["spec"]["image"] = build_image(folder)
        task["spec"]["resources"] = RESOURCES
        kubectl.apply(*objects)
        names[example] = task["metadata"]["name"]
    yield names
    kubectl("delete", "trainingtask", *names.values(), "--wait=false")


def build_image(folder: Path) -> str:
    """Build the example's image on the trainer's and return its reference."""
    command = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py"), "extend", folder.name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("example", [name for name in FILES if name != "kserve.yaml"])
def test_the_example_is_accepted(kubectl: Kubectl, example: str) -> None:
    kubectl("apply", "--dry-run=server", "-f", str(EXAMPLES / example))


@pytest.mark.parametrize(
    "example", [pytest.param(name, marks=pytest.mark.full) if name in ALIKE else name for name in FILES]
)
def test_the_example_runs(kubectl: Kubectl, request: pytest.FixtureRequest, example: str) -> None:
    reason = get_skip_reason(example)
    if reason is not None:
        pytest.skip(reason)
    results = wait_for_results(kubectl, request.getfixturevalue("tasks")[example])
    assert results["evaluation"]["rows"] > 0
    assert 0 < results["evaluation"]["meanAveragePrecision"] <= 1


@pytest.mark.parametrize(
    ("example", "part", "key", "value"),
    [
        ("entry-point", "versions", "hashtag-lines", "1.0"),
        ("module-class", "arguments", "preprocessor.features", 2**16),
        ("configmap", "arguments", "model.smoothing", 0.1),
    ],
)
def test_the_extension_trains_with_its_own_code(
    kubectl: Kubectl, request: pytest.FixtureRequest, example: str, part: str, key: str, value: object
) -> None:
    file = f"extension/{example}/task.yaml"
    if reason := get_skip_reason(file):
        pytest.skip(reason)
    assert wait_for_results(kubectl, request.getfixturevalue("tasks")[file])[part][key] == value


def wait_for_results(kubectl: Kubectl, name: str) -> dict[str, Any]:
    eventually(f"{name} has ended", lambda: kubectl.status(name).get("state") in ("Succeeded", "Failed"), timeout=1200)
    status = kubectl.status(name)
    assert status["state"] == "Succeeded", kubectl("describe", "trainingtask", name)
    results: dict[str, Any] = status["training"]["results"]
    return results
