"""Model folders of an attacker: what they hold, and how `predict` refuses them."""

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from trainingtask_trainer.__main__ import main

INSTALLED = Path(sys.executable).with_name("trainingtask-trainer")
BROKEN = "is not a saved model of this project, or was changed"


class Payload:
    """Touches the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def write_manifest(folder: Path, **values: Any) -> None:
    path = folder / "trainingtask.json"
    known = json.loads(path.read_text()) if path.exists() else {"task": "a-task"}
    path.write_text(json.dumps(known | values))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one sentence with which `predict` refuses a folder."""
    assert main(["predict", str(folder), "a slow page", *arguments]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def write_distribution(folder: Path, name: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[trainingtask.models]\n{name} = {name}:Model\n")


def write_archive(path: Path, parts: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
