"""`make try`: from nothing to a trained model and its page, without a cluster."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.kubectl import eventually
from support.ports import free_port

SCRIPT = Path(__file__).parents[3] / "hack" / "try.py"
TIMEOUT_SECONDS = 600  # a machine may have to download the packages


def fetch_page(address: str, process: subprocess.Popen[str]) -> str | None:
    assert process.poll() is None, "the output is above"
    try:
        with urllib.request.urlopen(address, timeout=10) as page:
            return str(page.read().decode())
    except urllib.error.URLError:
        return None


@pytest.mark.full
def test_try_trains_predicts_and_serves_the_runs_pages(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {"TRY_DIR": str(tmp_path), "PORT": str(port)}
    environment.pop("VIRTUAL_ENV", None)
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen([sys.executable, SCRIPT], env=environment, stdout=output, stderr=output, text=True) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}/"
            page = eventually("the runs page", lambda: fetch_page(address, process), TIMEOUT_SECONDS)
        finally:
            process.send_signal(signal.SIGINT)
            print(log.read_text())
    assert "quickstart" in page
    assert f"All runs: http://127.0.0.1:{port}" in log.read_text()
    assert "billing (0." in log.read_text()
