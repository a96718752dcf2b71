"""Fixtures of the tests about saved models: honest ones to be forged, and a marker of code that ran."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from support.hostile_models import edit_json, write_manifest
from support.specs import CLASSICAL, changed
from support.specs import task as manifest_of
from trainingtask_trainer import registry
from trainingtask_trainer.__main__ import main


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


@pytest.fixture
def touches(marker: Path) -> str:
    """Return Python source that writes the marker, with every class name that an attack asks for."""
    return f"open({str(marker)!r}, 'w').close()\nclass Model: ...\n"


@pytest.fixture
def isolated_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a command changes in its process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_code_folders", [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("evil", "mine", "helper"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of an honest model, trained once."""
    root = tmp_path_factory.mktemp("trained")

    def train(model: str) -> Path:
        if not (root / model).exists():
            spec = changed(CLASSICAL, model__name=model, dataset__sampleSize=100, output__volumeClaim="models")
            spec["training"] = {"trees": 3} if model == "random_forest" else {}
            (root / "task.yaml").write_text(yaml.safe_dump(manifest_of(model.replace("_", "-"), spec)))
            arguments = [f"--output-dir={root}", f"--history=sqlite:///{root}/history.db"]
            assert main(["run", str(root / "task.yaml"), *arguments]) == 0
            (root / model.replace("_", "-")).rename(root / model)
        return root / model

    return train


@pytest.fixture
def classical(trained: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained("logistic_regression"), tmp_path / "model"))


@pytest.fixture
def transformer(tiny_models: Path, tmp_path: Path) -> Path:
    """Return a saved model of two labels."""
    import transformers

    folder = tmp_path / "model"
    shutil.copytree(tiny_models / "bert", folder)
    transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", model_max_length=16)
    write_manifest(folder, model="bert", preprocessor="tokenizer", labels=["a", "b"], thresholds=[0.0, 0.0])
    return folder
