"""The examples of adding a kind of one's own, each run from its files as a person would run them on a laptop."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainingtask_trainer import registry
from trainingtask_trainer.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "examples"
EXTENSION = EXAMPLES / "extension"


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a run does to its process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_code_folders", [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("hashing", "hashtag_lines", "naive_bayes"):
            del sys.modules[name]


def train(example: str, *arguments: str) -> Any:
    """Run an example's task in the working directory and return its results."""
    # Each keeps its model, to read the results from.
    task = yaml.safe_load((EXTENSION / example / "task.yaml").read_text(encoding="utf-8"))
    task["spec"]["output"] = {"volumeClaim": "models", "subPath": example}
    Path("task.yaml").write_text(yaml.safe_dump(task))
    assert main(["run", "task.yaml", *arguments]) == 0
    return json.loads(Path("out", example, "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the entry-point example installed, as its Dockerfile installs it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--target={folder}", str(EXTENSION / "entry-point")], check=True, timeout=120)
    return folder


def test_a_package_registers_a_data_set(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(site)
    results = train("entry-point", f"--dataset-dir={EXAMPLES / 'data'}")
    assert (results["labels"], results["versions"]["hashtag-lines"]) == (7, "1.0")
    assert main(["list"]) == 0
    assert "A text file with one text per line, each with its labels as hashtags." in capsys.readouterr().out


def test_a_preprocessor_is_named_by_module_and_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXTENSION / "module-class")
    results = train("module-class")
    assert results["arguments"]["preprocessor.name"] == "hashing:Hashing"
    assert results["arguments"]["preprocessor.features"] == 2**16
    assert results["evaluation"]["micro"]["f1"] > 0.8
    assert main(["predict", "out/module-class", "My card was charged twice"]) == 0
    assert "billing" in capsys.readouterr().out.splitlines()[-1]


def test_a_model_comes_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    code = f"--code-dir={EXTENSION / 'configmap'}"
    results = train("configmap", code)
    assert results["arguments"]["model.name"] == "naive_bayes:NaiveBayes"
    assert results["evaluation"]["micro"]["f1"] > 0.8
    assert main(["predict", code, "out/configmap", "My card was charged twice"]) == 0
    assert "billing" in capsys.readouterr().out.splitlines()[-1]
