"""Time and memory of the classical models over rows, labels and workers, on generated rows like those of tf-idf.

    python benchmarks/classical/scaling.py workers [MODEL ...] [--json FILE]
    python benchmarks/classical/scaling.py cores [MODEL ...] [--json FILE]
    python benchmarks/classical/scaling.py curve [MODEL ...] [--json FILE] [--most VALUES]

`workers` fits 43,233 rows x 200 labels in one process and with two and four workers, and with scikit-learn's own
`OneVsRestClassifier(n_jobs=2)`. `cores` gives each worker half a core, by the quota of a cgroup, so that four workers run as
on four cores of a machine half as fast: on two idle cores, as root. `curve` goes from 10,000 to 1,000,000 rows and from 10 to 1,000 labels; `--most` leaves
out what fits more stored values times labels. Each line is a process of its own. The busiest process tells the time that
as many idle cores would take; memory is the peak of all processes together, shared pages counted once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

MODELS = ("logistic_regression", "linear_svc")
ROWS, LABELS = 43_233, 200
CURVE = (
    *((rows, 10) for rows in (10_000, 100_000, 360_000, 1_000_000)),
    *((10_000, labels) for labels in (100, 200, 1_000)),
    *((rows, labels) for rows in (100_000, 360_000, 1_000_000) for labels in (100, 200, 1_000)),
)
SAMPLING_SECONDS = 0.5
MIB = 1 << 20


def main() -> None:
    """Print a table, or measure one case for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=["workers", "cores", "curve", "case"])
    parser.add_argument("models", nargs="*", help="linear_svc, knn, ...; of `case`: what to measure, as JSON")
    parser.add_argument("--json", type=Path, help="file to write the measurements to, one a line")
    parser.add_argument(
        "--most", type=float, default=2e8, help="stored values x labels (default: 2e8; 2e10 takes hours)"
    )
    options = parser.parse_args()
    if options.table == "case":
        print(json.dumps(measure(**json.loads(options.models[0]))))
        return
    print("| model | rows | labels | workers | fit | CPU | busiest process | predict | evaluate | peak memory | load |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in list_cases(options):
        with limit_cores(case["workers"] / 2) if options.table == "cores" else nullcontext([]) as prefix:
            found = case | run_case(case, prefix)
        print(format_line(found), flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


def list_cases(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `measure` for each line."""
    for model in options.models or MODELS:
        if options.table != "curve":
            theirs = ("scikit-learn", 2 if options.table == "workers" else 4)
            for library, workers in (("here", 1), ("here", 2), ("here", 4), theirs):
                if library == "here" or model in MODELS:
                    yield {"model": model, "rows": ROWS, "labels": LABELS, "workers": workers, "library": library}
        else:
            for rows, labels in CURVE:
                if rows * 19 * labels <= options.most:
                    workers = len(os.sched_getaffinity(0))
                    yield {"model": model, "rows": rows, "labels": labels, "workers": workers, "library": "here"}


@contextmanager
def limit_cores(cores: float) -> Iterator[list[str]]:
    """Yield what to put before a command so that all its processes together have that many cores."""
    hierarchy = Path("/sys/fs/cgroup")
    first = not (hierarchy / "cgroup.controllers").exists()
    group = hierarchy / "cpu" / "scaling" if first else hierarchy / "scaling"
    group.mkdir()
    try:
        period = 20_000  # microseconds; short, so that a process never waits for long
        quota = round(cores * period)
        for name, value in (
            (("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota))
            if first
            else (("cpu.max", f"{quota} {period}"),)
        ):
            (group / name).write_text(f"{value}")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


def run_case(case: dict[str, Any], prefix: list[str]) -> dict[str, Any]:
    """Measure a case in a process of its own; add the memory and processor time of all its processes."""
    command = [*prefix, sys.executable, __file__, "case", json.dumps(case)]
    peak, seconds = 0, dict[int, float]()
    with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output) as process:
        measured = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for member in list_tree(measured):
                try:
                    total += member.memory_full_info().pss
                    seconds[member.pid] = sum(member.cpu_times()[:2])
                except psutil.Error:  # it has ended meanwhile
                    continue
            peak = max(peak, total)
            time.sleep(SAMPLING_SECONDS)
        if process.returncode:
            sys.exit(f"{case} failed")
        output.seek(0)
        result: dict[str, Any] = json.load(output)
    workers = [used for pid, used in seconds.items() if pid != process.pid]
    return {**result, "peak": peak, "worker_cpu": workers, "load": os.getloadavg()[0]}


def list_tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants, none when it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def measure(model: str, rows: int, labels: int, workers: int, library: str) -> dict[str, float]:
    """Fit, predict a tenth as many rows, and evaluate; return the seconds of each, and the CPU seconds of the fit."""
    from rows import generate_rows  # noqa: PLC0415 - the table's process needs none of this

    from trainingtask_trainer.evaluation.evaluator import ScoredRows, evaluate  # noqa: PLC0415

    data = generate_rows(rows, labels)
    fit, predict = prepare(model, data, workers, library)
    cpu, started = time.process_time(), time.perf_counter()
    fit()
    result = {"fit": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    started = time.perf_counter()
    probabilities = predict()
    result["predict"], started = time.perf_counter() - started, time.perf_counter()
    scored = ScoredRows(data.validation_labels, probabilities)
    scores = evaluate(None, data.label_names, train_labels=data.labels, validation=scored, test=scored, seconds=1)
    return result | {"evaluate": time.perf_counter() - started, "f1": scores.test.micro.f1 or 0.0}


def prepare(model: str, data: Any, workers: int, library: str) -> tuple[Callable[[], object], Callable[[], Any]]:
    """Return what fits and what predicts the validation rows."""
    import bench  # noqa: PLC0415

    from trainingtask_trainer import registry  # noqa: PLC0415
    from trainingtask_trainer.models.classical import estimators, neighbors  # noqa: PLC0415
    from trainingtask_trainer.volumes import Volumes  # noqa: PLC0415

    if library == "here":
        for module in (estimators, neighbors):
            patch.object(module, "get_cpu_limit", return_value=workers).start()
        spec = bench.task(
            model, "one_vs_rest" if model != "knn" else "native", argparse.Namespace(rows=None, trees=10)
        ).spec
        ours = registry.load("models", model)(spec, Volumes(Path(), Path(), Path()))
        return lambda: ours.fit(data, None, lambda step: None, None), lambda: ours.predict(data.validation_features)
    from scipy.special import expit  # noqa: PLC0415
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    theirs = OneVsRestClassifier(bench.create_estimator(model, 10, 1), n_jobs=workers)

    def predict() -> Any:
        if model == "linear_svc":
            return expit(theirs.decision_function(data.validation_features))
        return theirs.predict_proba(data.validation_features)

    return lambda: theirs.fit(data.features, data.labels), predict


def format_line(found: dict[str, Any]) -> str:
    """Return a measurement as a line of the table."""
    workers = f"{found['workers']}" + (" (scikit-learn)" if found["library"] != "here" else "")
    cells = (found["model"], f"{found['rows']:,}", f"{found['labels']:,}", workers)
    cpu = found["cpu"] + sum(found["worker_cpu"])
    busiest = max(found["cpu"], *found["worker_cpu"], 0)
    times = (found["fit"], cpu, busiest, found["predict"], found["evaluate"])
    seconds = (f"{value:.1f} s" for value in times)
    peak, load = f"{found['peak'] // MIB:,} MiB", f"{found['load']:.1f}"
    return f"| {' | '.join((*cells, *seconds, peak, load))} |"


if __name__ == "__main__":
    main()
