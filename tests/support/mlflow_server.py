"""A real MLflow server, in an environment of its own, whose pins differ from the project's: requirements/mlflow.txt."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support.kubectl import eventually
from support.ports import free_port

_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "mlflow.txt"
_START_SECONDS = 500  # its first start compiles its modules


def find_python() -> Path:
    """Return the interpreter of the server's environment, which is made once per list of requirements."""
    cache = Path(os.environ.get("TRAININGTASK_CACHE") or Path.home() / ".cache" / "trainingtask")
    folder = cache / f"mlflow-{hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv, "uv is not in the environment of the tests"
        # Renamed when it is complete; relocatable, for its own path changes.
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            install = [uv, "pip", "install", "--quiet", f"--python={partial}/env", "--no-deps", "--require-hashes"]
            environment = os.environ | {"UV_SYSTEM_CERTS": "1"}
            for command in (
                [uv, "venv", "--quiet", "--relocatable", f"--python={sys.executable}", f"{partial}/env"],
                [*install, f"--requirement={_REQUIREMENTS}"],
            ):
                subprocess.run(command, env=environment, check=True)
            Path(partial, "env").rename(folder)
    return folder / "bin" / "python"


@contextmanager
def run_mlflow(folder: Path) -> Iterator[str]:
    """Yield the address of a server with a database and artifacts in `folder`."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [str(find_python()), "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1"]
    command += [f"--port={httpx.URL(url).port}", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    command += [f"--artifacts-destination={folder}/artifacts", "--serve-artifacts"]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment) as process,
    ):
        try:
            eventually(
                "MLflow answers", lambda: process.poll() is None and _answers(f"{url}/health"), timeout=_START_SECONDS
            )
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


class MLflow:
    """What a server has recorded, as its REST API tells."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the answer to a request."""
        answer = httpx.request(method, f"{self.url}/api/2.0/{path}", trust_env=False, timeout=120, **options)
        answer.raise_for_status()
        return answer.json()

    def list_runs(self, experiment: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment, the newest first."""
        found = self.call("GET", "mlflow/experiments/get-by-name", params={"experiment_name": experiment})
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        runs: list[dict[str, Any]] = self.call("POST", "mlflow/runs/search", json=body).get("runs", [])
        return runs

    def read_curve(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """Return the steps and values of a metric, in the order of the steps."""
        history = self.call("GET", "mlflow/metrics/get-history", params={"run_id": run_id, "metric_key": name})
        return sorted((metric["step"], metric["value"]) for metric in history.get("metrics", []))

    def read_artifact(self, run: dict[str, Any], name: str) -> bytes:
        """Return an artifact that the server stores itself."""
        path = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        answer = httpx.get(f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}/{name}", trust_env=False, timeout=120)
        answer.raise_for_status()
        return answer.content


def read_entries(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a list of keys and values as a mapping."""
    return {entry["key"]: entry["value"] for entry in entries}
