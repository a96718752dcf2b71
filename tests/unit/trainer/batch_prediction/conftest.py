import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.served_models import HeldModel, write_held_model
from trainingtask_trainer import registry
from trainingtask_trainer.batch_prediction import run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldModel]:
    """Return a model, with parts of two rows; what a command changes in this process is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_code_folders", [])
    monkeypatch.setattr(run, "_MAX_PART_ROWS", 2)
    monkeypatch.setattr(run, "get_cpu_limit", lambda: 1)
    run._load_model.cache_clear()
    for module in ("torch", "lengths"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield write_held_model(tmp_path)
    sys.modules.pop("lengths", None)
