"""What the images are made of: each package by its hash, the base by its digest, and a bill that lists it all."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILES = ("Dockerfile", "trainer_image/Dockerfile")
IMAGES = {"operator": ("operator",), "web": ("web",), "serve": ("serve",), "trainer": ("torch", "trainer")}


def instructions(dockerfile: str) -> list[str]:
    """Return the instructions of a Dockerfile, each in one line, without comments."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return code.replace("\\\n", " ").splitlines()


def make(folder: Path, *arguments: str) -> None:
    """Run a target in a copy of the repository's files, with this interpreter's environment in the place of .venv."""
    for name in ("Makefile", "pyproject.toml", "README.md", "Dockerfile"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    (folder / "trainer_image").mkdir()
    shutil.copy(ROOT / "trainer_image" / "Dockerfile", folder / "trainer_image")
    command = ["make", "--silent", "--old-file=.venv/ready", f"BIN={Path(sys.executable).parent}", *arguments]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_each_package_is_installed_by_its_hash(dockerfile: str) -> None:
    installs = [
        command
        for line in instructions(dockerfile)
        for command in re.split(r"&&|;|\|\|", line)
        if re.search(r"\bpip install\b", command)
    ]
    assert len(installs) >= 4
    for command in installs:
        own_code = "--no-deps --no-build-isolation /build" in command
        assert own_code or "--require-hashes" in command, command


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_each_image_has_labels_of_its_version_and_revision(dockerfile: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    lines = instructions(dockerfile)
    entries = [line for line in lines if line.startswith("ENTRYPOINT")]
    labels = [line for line in lines if line.startswith("LABEL")]
    assert len(labels) == len(entries)
    for line in labels:
        keys = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", line))
        assert keys == {"title", "description", "licenses", "version", "revision"}
    assert lines.count(f"ARG VERSION={version}") == lines.count("ARG REVISION=unknown") == len(labels)


def test_a_backend_without_hashes_is_refused(tmp_path: Path) -> None:
    (run,) = (line for line in instructions("trainer_image/Dockerfile") if "--torch-backend" in line)
    script = run.removeprefix("RUN ").replace("/build/", f"{tmp_path}/")
    done = subprocess.run(
        ["sh", "-c", script], env=os.environ | {"TORCH_BACKEND": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "requirements/torch-cpu.txt is missing: write it with 'make requirements-torch BACKEND=cpu'" in done.stderr


def test_the_base_is_pinned_by_its_digest(tmp_path: Path) -> None:
    skopeo = tmp_path / "skopeo"
    skopeo.write_text("#!/bin/sh\necho sha256:$(printf %s \"$4\" | sha256sum | cut -d' ' -f1)\n")
    skopeo.chmod(0o755)
    make(tmp_path, "base-image", "BASE=debian:trixie-slim")
    for dockerfile in DOCKERFILES:
        [base] = re.findall(r"^ARG BASE_IMAGE=(.*)$", (tmp_path / dockerfile).read_text(), re.MULTILINE)
        assert re.fullmatch(r"debian:trixie-slim@sha256:[0-9a-f]{64}", base)


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sbom")
    make(folder, "sbom")
    return folder / "out" / "sbom"


@pytest.mark.parametrize("image", IMAGES)
def test_the_bill_lists_each_pinned_package(bills: Path, image: str) -> None:
    pins = {
        pin
        for name in IMAGES[image]
        for pin in re.findall(r"^([\w.-]+)==([^ ]+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)
    }
    bill = json.loads((bills / f"{image}.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert len(pins) > 20
    assert {(component["name"], component["version"]) for component in bill["components"]} == pins
    for component in bill["components"]:
        hashes = [part for reference in component["externalReferences"] for part in reference["hashes"]]
        assert {part["alg"] for part in hashes} == {"SHA-256"}
