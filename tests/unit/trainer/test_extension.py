"""The examples of adding a kind of one's own, each run from its files as a person would run them on a laptop."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[3] / "examples"
EXTENSION = EXAMPLES / "extension"


def train(example: str, *arguments: str | Path, folder: Path, path: Path | None = None) -> Any:
    """Run an example's task and return its results; `path` stands for what an image adds to the import path."""
    # Each keeps its model, to read the results from.
    task = yaml.safe_load((EXTENSION / example / "task.yaml").read_text(encoding="utf-8"))
    task["spec"]["output"] = {"volumeClaim": "models", "subPath": example}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    run("run", "task.yaml", *arguments, folder=folder, path=path)
    return json.loads((folder / "out" / example / "results.json").read_text(encoding="utf-8"))


def run(*arguments: str | Path, folder: Path, path: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trainingtask_trainer", *map(str, arguments)],
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the entry-point example installed, as its Dockerfile installs it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--target={folder}", str(EXTENSION / "entry-point")], check=True, timeout=120)
    return folder


def test_a_package_registers_a_data_set(site: Path, tmp_path: Path) -> None:
    results = train("entry-point", f"--dataset-dir={EXAMPLES / 'data'}", folder=tmp_path, path=site)
    assert (results["labels"], results["versions"]["hashtag-lines"]) == (7, "1.0")
    listed = run("list", folder=tmp_path, path=site)
    assert "A text file with one text per line, each with its labels as hashtags." in listed


def test_a_preprocessor_is_named_by_module_and_class(tmp_path: Path) -> None:
    results = train("module-class", folder=tmp_path, path=EXTENSION / "module-class")
    assert results["arguments"]["preprocessor.name"] == "hashing:Hashing"
    assert results["arguments"]["preprocessor.features"] == 2**16
    assert results["evaluation"]["micro"]["f1"] > 0.8
    text = "My card was charged twice"
    assert "billing" in run("predict", "out/module-class", text, folder=tmp_path, path=EXTENSION / "module-class")


def test_a_model_comes_from_a_file(tmp_path: Path) -> None:
    code = f"--code-dir={EXTENSION / 'configmap'}"
    results = train("configmap", code, folder=tmp_path)
    assert results["arguments"]["model.name"] == "naive_bayes:NaiveBayes"
    assert results["evaluation"]["micro"]["f1"] > 0.8
    assert "billing" in run("predict", code, "out/configmap", "My card was charged twice", folder=tmp_path)
