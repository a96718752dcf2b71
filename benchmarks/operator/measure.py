"""Measurements: the times of watch events, the usage of a process, and the counters of the API server."""

import asyncio
import re
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from support.kube_api import JOBS, PODS, TASKS, Api

TASK_NAME = "trainingtask.dev/task-name"


class Observer:
    """Record when each task reached each step, by watches of its own.

    All times are this process's monotonic clock. The system under test sees the same events at about the same time,
    so a difference of two of them is what it and its requests took.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self.at: dict[str, dict[str, float]] = defaultdict(dict)  # task -> step -> time
        self._changed = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Observer":
        for path in (
            f"{TASKS}/namespaces/{{}}/trainingtasks",
            f"{JOBS}/namespaces/{{}}/jobs",
            f"{PODS}/namespaces/{{}}/pods",
        ):
            self._watches.append(asyncio.create_task(self._watch(path.format(self._namespace))))
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def wait_for(self, step: str, names: list[str], seconds: float) -> None:
        """Wait until all the tasks have reached the step."""
        async with asyncio.timeout(seconds):
            while any(step not in self.at[name] for name in names):
                for watch in self._watches:
                    if watch.done():
                        watch.result()
                self._changed.clear()
                await self._changed.wait()

    async def _watch(self, path: str) -> None:
        async for _, item in self._api.watch(path):
            now = time.monotonic()
            for name, step in _find_steps(item):
                self.at[name].setdefault(step, now)
            self._changed.set()

    def get_durations(self, first: str, second: str, names: list[str]) -> list[float]:
        """Return the milliseconds from one step to another of each task."""
        return [1000 * (self.at[n][second] - self.at[n][first]) for n in names if {first, second} <= self.at[n].keys()]


def _find_steps(item: dict[str, Any]) -> list[tuple[str, str]]:
    labels, status = item["metadata"].get("labels") or {}, item.get("status") or {}
    if item["kind"] == "TrainingTask":
        name = item["metadata"]["name"]
        state = {"Running": "status running", "Succeeded": "status ended", "Failed": "status ended"}
        return [(name, state[status["state"]])] if status.get("state") in state else []
    name = labels.get(TASK_NAME, "")
    if item["kind"] == "Job":
        ended = any(
            c["status"] == "True" and c["type"] in ("Complete", "Failed") for c in status.get("conditions") or []
        )
        return [(name, "job"), *([(name, "job ended")] if ended else [])]
    return [(name, "pod running")] if status.get("phase") == "Running" else []


def p50(values: list[float]) -> float:
    """Return the median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


@dataclass
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    rss: float  # MiB, now
    peak_rss: float  # MiB


def read_usage(pid: int) -> Usage:
    """Read a process's counters."""
    times = psutil.Process(pid).cpu_times()
    text = Path(f"/proc/{pid}/status").read_text()
    rss, peak = (int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return Usage(times.user + times.system, rss, peak)


@dataclass
class Counts:
    """The API server's counters that matter here."""

    account: float = 0.0  # requests of the account under test that priority and fairness let through, watches too
    cpu_seconds: float = 0.0
    by_call: Counter[tuple[str, str]] = field(default_factory=Counter)  # (verb, resource) of all clients

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(
            self.account - earlier.account, self.cpu_seconds - earlier.cpu_seconds, self.by_call - earlier.by_call
        )


async def read_counts(admin: Api, flow_schema: str) -> Counts:
    """Read the API server's metrics."""
    found = Counts()
    for line in (await admin.request("GET", "/metrics")).splitlines():
        if line.startswith("process_cpu_seconds_total "):
            found.cpu_seconds = float(line.split()[-1])
        elif line.startswith("apiserver_flowcontrol_dispatched_requests_total{"):
            if f'flow_schema="{flow_schema}"' in line:
                found.account += float(line.split()[-1])
        elif line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            resource = "/".join(part for part in (labels["resource"], labels["subresource"]) if part)
            found.by_call[labels["verb"], resource] += int(float(line.split()[-1]))
    return found
