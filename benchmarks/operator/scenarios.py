"""The measured scenarios: one task at a time, many at once, many finished, many reporting."""

import asyncio
import contextlib
import http
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from environment import LONG, NAME, SETTINGS, SHORT, TRAINER, Environment, delete_all
from measure import Counts, Observer, Usage, p50, read_counts, read_usage
from systems import run_system

from support.kube_api import APPLY, MERGE_PATCH, TASKS, Api, ApiError, gather_bounded
from trainingtask_api import TrainingTask
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.settings import Settings

CREATORS = 32  # connections that create tasks at once
TIMEOUT_SECONDS = 180.0

SPEC = {
    "dataset": {"name": "go_emotions", "hub": {"id": "google-research-datasets/go_emotions"}, "sampleSize": 20000},
    "preprocessor": {"maxLength": 64},
    "model": {"name": "bert", "checkpoint": "google-bert/bert-base-uncased"},
    "training": {"epochs": 3, "batchSize": 32, "learningRate": 3e-5},
    "resources": {"cpu": "1", "memory": "1Gi"},
}


@dataclass(frozen=True)
class Size:
    """Numbers of tasks."""

    idle: int
    burst: int
    finished: int
    progress: int
    progress_seconds: float


@dataclass
class Measurement:
    """The measurements of one variant; times in milliseconds unless another unit is given."""

    idle_job: float
    last_job: float  # seconds
    idle_running: float
    burst_running: float
    idle_ended: float
    burst_ended: float
    all_ended: float  # seconds
    requests: float  # per task
    cpu: float  # per task
    peak_rss: float  # MiB
    rss: float  # MiB, all finished
    calls: Counts
    tasks: int


@dataclass
class ScaleMeasurement:
    """The measurements of the operator with many tasks."""

    rss_finished: float
    peak_rss_finished: float
    start_to_job: float  # seconds
    quiet_job: float
    progress_job: float
    reports: float  # per second
    api_cpu: float  # cores while they report
    quiet_api_cpu: float
    operator_cpu: float


async def measure_variant(prepared: Environment, variant: str, size: Size) -> Measurement:
    """Measure the idle and the burst scenario of one variant in an empty namespace."""
    admin = prepared.admin
    _write_job_template(prepared)
    async with run_system(prepared, variant) as process, Observer(admin, SHORT) as observer:
        await _wait_until_working(admin, observer, process.pid)
        before, used = await read_counts(admin, NAME), read_usage(process.pid)
        idle = [f"idle-{number}" for number in range(size.idle)]
        for name in idle:
            await _create_task(admin, observer, SHORT, name)
            await observer.wait_for("job", [name], 30)
            await asyncio.sleep(0.1)
        await observer.wait_for("status ended", idle, 60)
        burst = [f"burst-{number}" for number in range(size.burst)]
        begin = time.monotonic()
        await gather_bounded(CREATORS, (_create_task(admin, observer, SHORT, name) for name in burst))
        await observer.wait_for("job", burst, TIMEOUT_SECONDS)
        await observer.wait_for("status ended", burst, TIMEOUT_SECONDS)
        await asyncio.sleep(2)  # requests after its end belong to the task
        tasks = size.idle + size.burst
        spent, now = await read_counts(admin, NAME) - before, read_usage(process.pid)
        result = Measurement(
            idle_job=p50(observer.get_durations("created", "job", idle)),
            last_job=max(observer.at[name]["job"] for name in burst) - begin,
            idle_running=p50(observer.get_durations("pod running", "status running", idle)),
            burst_running=p50(observer.get_durations("pod running", "status running", burst)),
            idle_ended=p50(observer.get_durations("job ended", "status ended", idle)),
            burst_ended=p50(observer.get_durations("job ended", "status ended", burst)),
            all_ended=max(observer.at[name]["status ended"] for name in burst) - begin,
            requests=spent.account / tasks,
            cpu=1000 * (now.cpu_seconds - used.cpu_seconds) / tasks,
            peak_rss=now.peak_rss,
            rss=now.rss,
            calls=spent,
            tasks=tasks,
        )
    await delete_all(admin, SHORT)
    print(f"{variant}: {json.dumps({k: v for k, v in vars(result).items() if k != 'calls'}, default=str)}", flush=True)
    return result


async def measure_scale(prepared: Environment, size: Size) -> ScaleMeasurement:
    """Measure the operator with many finished tasks, then with many trainers that report."""
    admin = prepared.admin
    finished = [f"finished-{number}" for number in range(size.finished)]
    await gather_bounded(CREATORS, (_create_finished(admin, name) for name in finished))
    async with Observer(admin, LONG) as observer:
        begin = time.monotonic()
        await _create_task(admin, observer, LONG, "new")
        async with run_system(prepared, "ours") as process:
            await observer.wait_for("job", ["new"], TIMEOUT_SECONDS)
            start_to_job = observer.at["new"]["job"] - begin
            await _wait_until_idle(process.pid)
            after_start = read_usage(process.pid)
            quiet_job, quiet_cpu, _ = await _measure_latency(
                admin, observer, process.pid, "quiet", size.progress_seconds
            )
            tasks = [f"run-{number}" for number in range(size.progress)]
            await gather_bounded(CREATORS, (_create_task(admin, observer, LONG, name) for name in tasks))
            await observer.wait_for("status running", tasks, TIMEOUT_SECONDS)
            async with _reporting(str(prepared.trainer_kubeconfig), tasks) as reports:
                await asyncio.sleep(5)
                sent = len(reports)
                progress_job, api_cpu, operator_cpu = await _measure_latency(
                    admin, observer, process.pid, "busy", size.progress_seconds
                )
                rate = (len(reports) - sent) / size.progress_seconds
    return ScaleMeasurement(
        after_start.rss,
        after_start.peak_rss,
        start_to_job,
        quiet_job,
        progress_job,
        rate,
        api_cpu,
        quiet_cpu,
        operator_cpu,
    )


async def _measure_latency(
    admin: Api, observer: Observer, pid: int, prefix: str, seconds: float
) -> tuple[float, float, float]:
    """Create a task every 0.4 s; return the p50 to its Job in ms, and the API server's and the operator's cores."""
    before, used, begin = await read_counts(admin, NAME), read_usage(pid), time.monotonic()
    names = []
    while time.monotonic() < begin + seconds:
        names.append(f"{prefix}-{len(names)}")
        await _create_task(admin, observer, LONG, names[-1])
        await observer.wait_for("job", names[-1:], 60)
        await asyncio.sleep(0.4)
    took = time.monotonic() - begin
    api = (await read_counts(admin, NAME) - before).cpu_seconds / took
    return (
        p50(observer.get_durations("created", "job", names)),
        api,
        (read_usage(pid).cpu_seconds - used.cpu_seconds) / took,
    )


@contextlib.asynccontextmanager
async def _reporting(kubeconfig: str, tasks: list[str]) -> AsyncIterator[list[float]]:
    """Let a trainer per task report its progress every 2 to 5 seconds; yield the times of all reports."""
    sent: list[float] = []

    async def trainer(name: str) -> None:
        step = 0
        await asyncio.sleep(random.uniform(0, 5))
        while True:
            step += 10
            report = {
                "attempt": 1,
                "phase": "Training",
                "epoch": 1,
                "epochs": 3,
                "step": step,
                "totalSteps": 10_000,
                "progress": f"{step / 100:.0f}%",
                "loss": 1 / step,
                "reportTime": datetime.now(UTC).isoformat(),
            }
            body = {
                "apiVersion": "trainingtask.dev/v1alpha1",
                "kind": "TrainingTask",
                "metadata": {"name": name},
                "status": {"training": report},
            }
            path = f"{TASKS}/namespaces/{LONG}/trainingtasks/{name}/status"
            try:
                await api.request("PATCH", path, body, APPLY, fieldManager=TRAINER, force="true")
            except ApiError as error:
                if error.status != http.HTTPStatus.TOO_MANY_REQUESTS:  # the next report repeats it
                    raise
            else:
                sent.append(time.monotonic())
            await asyncio.sleep(random.uniform(2, 5))

    async with Api(kubeconfig, connections=len(tasks)) as api:
        trainers = [asyncio.create_task(trainer(name)) for name in tasks]
        try:
            yield sent
        finally:
            for task in trainers:
                task.cancel()
            for outcome in await asyncio.gather(*trainers, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome


async def _wait_until_working(admin: Api, observer: Observer, pid: int) -> None:
    """Wait until the system has finished a first task."""
    await _create_task(admin, observer, SHORT, "first")
    await observer.wait_for("status ended", ["first"], 60)
    await _wait_until_idle(pid)


async def _wait_until_idle(pid: int) -> Usage:
    """Wait until the process is idle."""
    last = read_usage(pid)
    while True:
        await asyncio.sleep(2)
        now = read_usage(pid)
        if now.cpu_seconds - last.cpu_seconds < 0.2:
            return now
        last = now


async def _create_task(admin: Api, observer: Observer, namespace: str, name: str) -> None:
    observer.at[name]["created"] = time.monotonic()
    await admin.request("POST", f"{TASKS}/namespaces/{namespace}/trainingtasks", _build_task(name))


async def _create_finished(admin: Api, name: str) -> None:
    path = f"{TASKS}/namespaces/{SHORT}/trainingtasks"
    await admin.request("POST", path, _build_task(name))
    await admin.request("PATCH", f"{path}/{name}/status", {"status": _build_finished_status(name)}, MERGE_PATCH)


def _build_task(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "trainingtask.dev/v1alpha1",
        "kind": "TrainingTask",
        "metadata": {"name": name},
        "spec": SPEC,
    }


def _build_finished_status(name: str) -> dict[str, Any]:
    """Return the status that a GoEmotions training leaves behind: 28 labels, each with its scores."""
    end = "2026-01-01T01:00:00Z"

    def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
        sentence = "The model is trained; status.training.results holds its scores."
        return {"type": kind, "status": status, "reason": reason, "message": sentence, "lastTransitionTime": end}

    averages = {"precision": 0.512345678, "recall": 0.498765432, "f1": 0.505432198}
    baseline = {"loss": 0.6931, "accuracyThresh": 0.958, "microF1": 0.0, "macroF1": 0.0, "meanAveragePrecision": 0.04}
    label = {**averages, "averagePrecision": 0.512345678, "support": 123, "threshold": 0.31}
    evaluation = {
        "split": "test", "rows": 5427, "threshold": 0.31, "thresholdSource": "global", "loss": 0.0861234, "accuracyThresh": 0.968,
        "subsetAccuracy": 0.45, "hammingLoss": 0.032, "micro": averages, "macro": averages, "weighted": averages,
        "samples": averages, "meanAveragePrecision": 0.51, "rocAuc": 0.93, "allZero": baseline, "labelPrior": baseline,
        "runtimeSeconds": 20.5, "samplesPerSecond": 264.7,
        "perLabel": [{"label": f"emotion-{number}", **label} for number in range(28)],
    }  # fmt: skip
    results = {
        "globalStep": 1875, "trainingLoss": 0.11, "trainRows": 20000, "validationRows": 5426, "runtimeSeconds": 3000.0,
        "samplesPerSecond": 20.0, "labels": 28, "dataFingerprint": "0" * 64, "evaluation": evaluation,
        "validation": {"rows": 5426, "loss": 0.085, "microF1": 0.52, "macroF1": 0.43, "meanAveragePrecision": 0.5},
        "arguments": {f"argument_{number}": number for number in range(20)},
        "versions": {"torch": "2.9.0", "transformers": "5.23.0"},
    }  # fmt: skip
    return {
        "observedGeneration": 1,
        "state": "Succeeded",
        "reason": "Succeeded",
        "conditions": [
            condition("Accepted", "True", "Accepted"),
            condition("Running", "False", "Ended"),
            condition("Complete", "True", "Succeeded"),
        ],
        "jobName": f"{name}-0123456789",
        "node": f"{NAME}-1",
        "attempt": 1,
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": end,
        "training": {
            "attempt": 1, "phase": "Done", "epoch": 3, "epochs": 3, "step": 1875, "totalSteps": 1875, "progress": "100%",
            "loss": 0.1, "score": "0.505", "reportTime": end, "startTime": "2026-01-01T00:00:00Z", "finishTime": end,
            "results": results,
        },
    }  # fmt: skip


def _write_job_template(prepared: Environment) -> None:
    """Write the Job that the operator builds, so that the bare variants create the same one."""
    body = _build_task("TASK-NAME") | {"metadata": {"name": "task-name", "namespace": SHORT, "uid": "TASK-UID"}}
    text = json.dumps(build_job(TrainingTask.model_validate(body), Settings.model_validate(SETTINGS)))
    job = json.loads(
        text.replace("task-name", "TASK-NAME").replace("trainingtask.dev/TASK-NAME", "trainingtask.dev/task-name")
    )
    job["metadata"]["name"] = "TASK-NAME-bench"
    (prepared.folder / "job.json").write_text(json.dumps(job))
