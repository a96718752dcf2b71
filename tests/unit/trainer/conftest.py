import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.hub_server import Hub, serve_hub, use_hub
from support.specs import task as manifest
from support.tiny_models import write_tiny_models
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.volumes import Volumes

# What is computed here is too small to share between threads, which on a busy machine only wait for each other. Read by
# the numeric libraries when they are imported, and by the processes that tests start.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

GO_EMOTIONS = Path(__file__).parents[3] / ".." / "shared" / "data" / "go_emotions"


@pytest.fixture(autouse=True)
def forget_precision() -> Iterator[None]:
    """Forget in which precision a test trained: a process trains once, outside tests."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "dataset", tmp_path / "model", tmp_path / "output")


@pytest.fixture
def make_task() -> Callable[..., TrainingTask]:
    def make(spec: dict[str, Any], name: str = "a-task") -> TrainingTask:
        return TrainingTask.model_validate(manifest(name, spec))

    return make


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    def write(spec: dict[str, Any], name: str = "a-task") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest(name, spec)))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint of each family."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def go_emotions() -> Path:
    if not GO_EMOTIONS.is_dir():
        pytest.skip(f"{GO_EMOTIONS} is absent: no real text on this machine")
    return GO_EMOTIONS


@pytest.fixture
def read_json() -> Callable[[Path], Any]:
    return lambda path: json.loads(path.read_text())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Serve a hub without repositories, which the libraries ask; their caches are empty."""
    with serve_hub() as served:
        use_hub(monkeypatch, served, tmp_path / "hub-cache")
        yield served
