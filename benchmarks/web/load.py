"""50 concurrent readers of the pages and the HTTP API, over 300,000 runs in Postgres; see the README beside it.

The server is `python -m trainingtask_web` as in its pod, with a fake API server and two users: one may list all
namespaces, one five of them. Readers, server and Postgres share the machine's cores.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.fake_api_server import OWN_TOKEN, make_kubeconfig, serve_fake_api
from support.many_runs import RUNS, seed
from support.ports import free_port
from support.postgres import run_temporary_postgres
from trainingtask_history.access import AccessScope
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.queries import list_runs

READERS = 50
_START_SECONDS = 60


@dataclass(frozen=True)
class Route:
    """A path, and the number of runs in its response."""

    name: str
    path: str
    rows: int


def list_routes(run: UUID) -> list[Route]:
    """Return the measured routes; both users may see the run."""
    return [
        Route("list, 50 runs, JSON", "/api/v1/runs", 50),
        Route("list, 500 runs, JSON", "/api/v1/runs?limit=500", 500),
        Route("list of failed runs, JSON", "/api/v1/runs?state=Failed", 50),
        Route("list by text, JSON", "/api/v1/runs?text=oomkilled", 50),
        Route("list, page", "/runs", 50),
        Route("one run, JSON", f"/api/v1/runs/{run}", 1),
        Route("one run, page", f"/runs/{run}", 1),
        Route("curves of a run, JSON", f"/api/v1/runs/{run}/metrics", 1),
    ]


@dataclass
class Measurement:
    """Latencies of one route in seconds, and the wall time."""

    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0

    def get_percentile(self, fraction: float) -> float:
        """Return a percentile in milliseconds."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


async def _read_repeatedly(port: int, path: str, token: str, until: float, into: list[float]) -> None:
    """Request a path repeatedly over one connection; fail on any status but 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    while (start := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head!r}")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        into.append(time.perf_counter() - start)
    writer.close()


async def _measure(port: int, paths: list[str], seconds: float) -> Measurement:
    measured = Measurement()
    start = time.perf_counter()
    tokens = ("everything", "five-namespaces")
    await asyncio.gather(
        *(
            _read_repeatedly(
                port, paths[reader % len(paths)], tokens[reader // len(paths) % 2], start + seconds, measured.seconds
            )
            for reader in range(READERS)
        )
    )
    measured.wall = time.perf_counter() - start
    return measured


@contextmanager
def _run_server(url: str, kubeconfig: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": os.environ["PATH"],
        "TRAININGTASK_HISTORY_URL": url,
        "TRAININGTASK_WEB_PORT": str(port),
        "KUBECONFIG": str(kubeconfig),
    }
    process = subprocess.Popen([sys.executable, "-m", "trainingtask_web"], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=_START_SECONDS)


async def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def _get_resident_mib(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="per route")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    with ExitStack() as stack:
        postgres = stack.enter_context(contextmanager(run_temporary_postgres)())
        name = postgres.create_database()
        url = postgres.url(name, name, name)
        engine = open_history(url)
        migrate(engine)
        start = time.perf_counter()
        seed(engine, options.runs)
        print(f"{options.runs} runs written in {time.perf_counter() - start:.0f} s; {READERS} readers\n", flush=True)
        visible = AccessScope(frozenset({"uid-1"}))
        run = next(
            run for run in list_runs(engine, visible, limit=500).items if run.task_uid != f"task-uid-{options.runs}"
        )
        engine.dispose()
        kubernetes = stack.enter_context(serve_fake_api())
        kubernetes.add_user("everything", "admin")
        kubernetes.add_user("five-namespaces", "ann")
        kubernetes.namespaces = {f"team-{number}": f"uid-{number}" for number in range(400)}
        kubernetes.allowed = {("admin", "list", "")} | {
            ("ann", "list", f"team-{number}") for number in (1, 2, 3, 50, 300)
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        server = stack.enter_context(_run_server(url, _write_kubeconfig(folder, kubernetes.url), port))
        asyncio.run(_measure_all(server, port, list_routes(run.id), options.seconds))


async def _measure_all(server: subprocess.Popen[bytes], port: int, measured: list[Route], seconds: float) -> None:
    await _wait_until_ready(port)
    paths = [route.path for route in measured]
    await _measure(port, paths, 3)  # warm up
    memory = [_get_resident_mib(server)]
    print("| route | p50 ms | p99 ms | requests/s | rows/s |\n|---|---:|---:|---:|---:|", flush=True)
    for route in measured:
        _print_row(route.name, await _measure(port, [route.path], seconds), route.rows)
        memory.append(_get_resident_mib(server))
    _print_row("all of these, mixed", await _measure(port, paths, 2 * seconds), None)
    memory.append(_get_resident_mib(server))
    middle = memory[len(memory) // 2]
    print(f"\nResident memory of the server: {memory[0]:.0f} MiB at the start, {middle:.0f} in the middle,", end=" ")
    print(f"{memory[-1]:.0f} at the end.")


def _print_row(name: str, measured: Measurement, rows: int | None) -> None:
    rate = len(measured.seconds) / measured.wall
    held = "" if rows is None else f"{rate * rows:.0f}"
    print(
        f"| {name} | {measured.get_percentile(0.5):.0f} | {measured.get_percentile(0.99):.0f} | {rate:.0f} | {held} |",
        flush=True,
    )


def _write_kubeconfig(folder: Path, url: str) -> Path:
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(make_kubeconfig(url, OWN_TOKEN)))
    return file


if __name__ == "__main__":
    main()
