"""Examples that are no tasks: their commands, probes and restrictions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainingtask_trainer.__main__ import _parser
from trainingtask_trainer.batch_prediction.shards import Shard
from trainingtask_trainer.serving.app import create_app

ROOT = Path(__file__).parents[3]
FILES = ("serve.yaml", "kserve.yaml", "batch-predict.yaml")


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "examples" / name).read_text(encoding="utf-8")))


def pod_of(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(name)[0]["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


@pytest.mark.parametrize("name", FILES)
def test_an_example_runs_as_a_restricted_user(name: str) -> None:
    pod = pod_of(name)
    [container] = pod["containers"]
    context = pod.get("securityContext", {}) | container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", ["serve.yaml", "kserve.yaml"])
def test_an_example_of_a_server_names_its_paths_and_options(name: str) -> None:
    [container] = pod_of(name)["containers"]
    [entrypoint] = [
        yaml.safe_load(line.removeprefix("ENTRYPOINT "))
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("ENTRYPOINT") and '"serve"' in line
    ]
    options = _parser().parse_args([*entrypoint[1:], *container["args"]])
    assert (options.command, options.host) == ("serve", "0.0.0.0")
    assert container["ports"][0]["containerPort"] == options.port
    paths = {route.path for route in create_app(None, "a-model", None).routes}  # type: ignore[arg-type, attr-defined]
    probes = [part["httpGet"]["path"] for key, part in container.items() if key.endswith("Probe")]
    assert len(probes) >= 2
    assert set(probes) <= paths


def test_the_job_has_a_pod_for_each_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = load("batch-predict.yaml")
    [container] = pod_of("batch-predict.yaml")["containers"]
    options = _parser().parse_args(container["args"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert Shard.parse(options.shard) == Shard(3, job["spec"]["completions"])
    assert options.input
    assert options.output


def test_the_service_and_the_autoscaler_are_of_the_deployment() -> None:
    deployment, service, scaler = load("serve.yaml")
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
