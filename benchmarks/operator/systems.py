"""Starting and stopping the systems under test, each a process of its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator

from environment import HERE, REPOSITORY, SHORT, Environment

COMMANDS = {
    "plain asyncio": ["-m", "variants.plain_asyncio"],
    "bare kopf": ["-m", "variants.bare_kopf"],
    "ours": ["-m", "trainingtask_operator"],
}
SOURCES = [HERE, REPOSITORY / "tests", REPOSITORY / "crds", REPOSITORY / "history", REPOSITORY / "operator"]


@contextlib.asynccontextmanager
async def run_system(prepared: Environment, variant: str) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Run a variant; yield its process."""
    folder = prepared.folder
    variables = {
        **os.environ,
        "KUBECONFIG": str(prepared.kubeconfig),
        "PYTHONPATH": os.pathsep.join(str(path) for path in SOURCES),
        "TRAININGTASK_SETTINGS": str(folder / "settings.yaml"),
        "BENCH_JOB": str(folder / "job.json"),
        "BENCH_NAMESPACE": SHORT,
    }
    if variant == "ours":  # everything switched on: the history too
        variables["TRAININGTASK_HISTORY_URL"] = f"sqlite:///{folder}/history.db"
    with (folder / f"{variant.replace(' ', '-')}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts within a moment, and before anything is measured
            [sys.executable, *COMMANDS[variant]], env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
