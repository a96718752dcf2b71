"""The variables that lead to a hub, as a process reads them when it starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.http_server import write_certificate
from support.hub_server import serve_hub

PROGRAM = """
import sys
from trainingtask_trainer.storage.hub import Repository, download_checkpoint
from trainingtask_trainer.storage import hub_client
hub_client.MAX_WAIT = 0
print(download_checkpoint(Repository("model.checkpoint", "someone/model"), "main"))
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def start(**environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and key[:3] != "HF_"}
        variables = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path), **environment}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=False
        )

    return start


def test_endpoint_token_home_and_offline_are_read(run: Run, tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.add("models/someone/model", {"config.json": b"{}"}, token="secret")
        refused = run(HF_ENDPOINT=hub.address)
        assert "or is private and HF_TOKEN is missing" in refused.stderr
        done = run(HF_ENDPOINT=hub.address, HF_TOKEN="secret")
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    assert run(HF_HUB_OFFLINE="1").stdout == done.stdout
    assert "HF_HUB_OFFLINE forbids to ask the hub" in run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "new")).stderr


def test_the_hub_is_asked_through_a_proxy(run: Run) -> None:
    with serve_hub() as hub:
        hub.add("models/someone/model", {"config.json": b"{}"})
        done = run(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.address)
        assert done.returncode == 0, done.stderr
        assert any("resolve" in request for request in hub.requests)


def test_a_certificate_of_ones_own_is_trusted(run: Run, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path / "ca.pem")
    with serve_hub(certificate) as hub:
        hub.add("models/someone/model", {"config.json": b"{}"})
        assert "CERTIFICATE_VERIFY_FAILED" in run(HF_ENDPOINT=hub.address).stderr
        done = run(HF_ENDPOINT=hub.address, SSL_CERT_FILE=str(certificate))
        assert done.returncode == 0, done.stderr
