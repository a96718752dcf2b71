"""Serving and batch prediction on one core, against `transformers` pipelines.

Rates are per second of the measured process's CPU time, which other work on the machine disturbs less; variants take turns.
"""

import argparse
import asyncio
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import numpy as np
import psutil

# Read by the numeric libraries when they are imported, also by the servers.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from model import MAX_TOKENS, draw_texts, write_model
from pipeline_server import create_pipeline

from trainingtask_api.exports import Format
from trainingtask_trainer.batch_prediction.run import ModelSource, predict_file

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "../shared/data"
PIPELINE = "pipeline, batch 1"
BATCH_PIPELINE = "pipeline, batches of 32, padded to the longest"
FORMATS = (Format.SAFETENSORS, Format.ONNX, Format.ONNX_INT8)
FIRST_PORT = 8093


@dataclass(frozen=True)
class Load:
    """What a server did under load."""

    requests: int
    cpu_seconds: float
    wall_seconds: float
    latencies: Sequence[float]
    """Of each request, in seconds."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with go_emotions (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of each round of load (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2000, help="of a batch prediction (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        texts = draw_texts(options.data, options.rows)
        write_model(folder, texts[:500])
        measure_servers(folder, texts, core, options)
        os.sched_setaffinity(0, {core})
        measure_files(folder, texts, options.rounds)


def measure_servers(folder: Path, texts: Sequence[str], core: int, options: argparse.Namespace) -> None:
    """Print requests per second of one text each, and their latency."""
    serve = ["-m", "trainingtask_trainer", "serve", str(folder)]
    commands = {PIPELINE: [str(HERE / "pipeline_server.py"), str(folder)]}
    commands |= {f"serve --format {kind}": [*serve, f"--format={kind}", "--port"] for kind in FORMATS}
    loads: dict[str, list[Load]] = {name: [] for name in commands}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(run_pinned([*command, str(FIRST_PORT + number)], core))
            for number, (name, command) in enumerate(commands.items())
        }
        for round_ in range(options.rounds + 1):
            for number, (name, process) in enumerate(processes.items()):
                seconds = options.seconds if round_ else options.seconds / 4
                load = asyncio.run(send_load(FIRST_PORT + number, process.pid, texts, options.clients, seconds))
                loads[name] += [load] if round_ else []  # the first round warms
    print(f"\n{options.clients} clients, one text per request, median of {options.rounds} rounds\n")
    print("| server | requests per CPU second | ratio | p50 | p99 | requests per second |\n|---|---|---|---|---|---|")
    base = median(load.requests / load.cpu_seconds for load in loads[PIPELINE])
    for name, rounds in loads.items():
        rate = median(load.requests / load.cpu_seconds for load in rounds)
        p50, p99 = (median(float(np.quantile(load.latencies, q)) for load in rounds) * 1000 for q in (0.5, 0.99))
        wall = median(load.requests / load.wall_seconds for load in rounds)
        print(f"| {name} | {rate:.0f} | {rate / base:.2f} | {p50:.0f} ms | {p99:.0f} ms | {wall:.0f} |", flush=True)


async def send_load(port: int, pid: int, texts: Sequence[str], clients: int, seconds: float) -> Load:
    """Have each client send one request after the other."""
    latencies: list[float] = []
    process = psutil.Process(pid)
    queue = iter(range(10**9))

    async def send(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < end:
            start = time.perf_counter()
            body = {"texts": [texts[next(queue) % len(texts)]]}
            async with session.post(f"http://127.0.0.1:{port}/predict", json=body) as answer:
                answer.raise_for_status()
                await answer.read()
            latencies.append(time.perf_counter() - start)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await wait_until_listening(session, port)
        before, start = process.cpu_times(), time.perf_counter()
        end = start + seconds
        await asyncio.gather(*(send(session) for _ in range(clients)))
        after, wall = process.cpu_times(), time.perf_counter() - start
    return Load(len(latencies), after.user + after.system - before.user - before.system, wall, latencies)


async def wait_until_listening(session: aiohttp.ClientSession, port: int) -> None:
    """Return once a request is answered."""
    while True:
        try:
            async with session.post(f"http://127.0.0.1:{port}/predict", json={"texts": ["a text"]}):
                return
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.1)


@contextmanager
def run_pinned(command: Sequence[str], core: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a script or a module on one core while entered."""
    pinned = [sys.executable, str(HERE / "pinned.py"), str(core), *command]
    with subprocess.Popen(pinned, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def measure_files(folder: Path, texts: Sequence[str], rounds: int) -> None:
    """Print rows per second of a csv file to a csv file."""
    source = folder.parent / "rows.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text",), *((text,) for text in texts)])
    classify = create_pipeline(folder)
    # The model is loaded before the first round's time; torch, which is imported here, keeps ONNX in this process.
    variants: dict[str, Callable[[], object]] = {
        BATCH_PIPELINE: lambda: classify(list(texts), batch_size=32),
        f"pipeline, batches of 32, padded to {MAX_TOKENS}": lambda: classify(
            list(texts), batch_size=32, padding="max_length"
        ),
        **{
            f"predict --format {kind}": lambda kind=kind: predict_to_csv(ModelSource(folder, kind, None), source)
            for kind in FORMATS
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, variant in variants.items():
            start = time.process_time()
            variant()
            if round_:  # the first one warms
                seconds[name].append(time.process_time() - start)
    print(f"\n{len(texts)} rows, median of {rounds} rounds\n\n| variant | rows per CPU second | ratio |\n|---|---|---|")
    base = median(seconds[BATCH_PIPELINE])
    for name, taken in seconds.items():
        print(f"| {name} | {len(texts) / median(taken):.0f} | {base / median(taken):.2f} |", flush=True)


def predict_to_csv(source: ModelSource, file: Path) -> None:
    """Predict a file, reading and writing included."""
    target = file.with_name("labels.csv")
    target.unlink(missing_ok=True)
    predict_file(source, file, str(target), columns=(), shard=None)


if __name__ == "__main__":
    main()
