"""Which rows are closed as those of deleted tasks: closing one is for good."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from support.in_memory_api_server import FakeCluster
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator import metrics
from trainingtask_operator.client.kubernetes import ClusterError
from trainingtask_operator.history import orphans


class OneLook:
    """A history with open rows, that remembers which of them were said to have no task."""

    def __init__(self, runs: list[OpenRun]) -> None:
        self.runs = runs
        self.closed: list[str] = []
        self.looked = asyncio.Event()

    async def close_orphans(self, exists: Callable[[OpenRun], Awaitable[bool]]) -> None:
        try:
            self.closed += [run.name for run in self.runs if not await exists(run)]
        finally:
            self.looked.set()


def run_of(name: str, uid: str, namespace: str = "default") -> OpenRun:
    return OpenRun(id=uid, task_uid=uid, namespace=namespace, name=name, start_time=None)


async def closed(cluster: FakeCluster, runs: list[OpenRun], watched: str = "") -> list[str]:
    history: Any = OneLook(runs)
    looking = asyncio.create_task(orphans.close_orphans(history, cluster, lambda uid: uid == watched))
    await asyncio.wait_for(history.looked.wait(), 5)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    return list(history.closed)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "FIRST_LOOK_SECONDS", 0.0)


async def test_rows_of_tasks_that_are_gone_or_created_again(cluster: FakeCluster) -> None:
    task = cluster.add_task({"metadata": {"namespace": "default", "name": "t"}})
    runs = [run_of("t", task["metadata"]["uid"]), run_of("t", "earlier"), run_of("gone", "uid")]
    assert await closed(cluster, runs) == ["t", "gone"]


async def test_a_task_that_the_watch_shows_is_not_asked_for(cluster: FakeCluster) -> None:
    assert await closed(cluster, [run_of("t", "seen")], watched="seen") == []
    assert cluster.requests == []


async def test_an_api_server_that_does_not_serve_tasks_says_nothing_about_any(cluster: FakeCluster) -> None:
    def not_served(_: str) -> None:
        raise ClusterError(404, "404 Not Found")

    cluster.before_each = not_served
    assert await closed(cluster, [run_of("t", "uid")]) == []


HOSTILE = [
    ("default", ""),
    ("", "t"),
    ("default", ".."),
    ("x/../../../../../api/v1/namespaces/kube-system/secrets/any?a=", "t"),
    ("default", "%2e%2e%2fsecrets"),
    ("default", "t" * 5000),
    ("default", "t\nforged log line"),
]


@pytest.mark.parametrize(("namespace", "name"), HOSTILE)
async def test_a_row_that_no_task_can_have_is_counted_and_skipped(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture, namespace: str, name: str
) -> None:
    runs = [run_of(name, "bad", namespace), run_of("gone", "uid")]
    before = invalid_rows()
    assert await closed(cluster, runs) == ["gone"]
    assert cluster.requests == ["get task"]
    assert invalid_rows() == before + 1
    (line,) = [record.getMessage() for record in caplog.records if "row bad" in record.getMessage()]
    assert len(line) < 400
    assert "\n" not in line


async def test_a_request_that_fails_for_one_row_stops_no_other() -> None:
    class FailsForOne(FakeCluster):
        async def get_task(self, namespace: str, name: str) -> dict[str, Any]:
            if name == "t":
                raise ClusterError(500, "an internal error")
            return await super().get_task(namespace, name)

    assert set(await closed(FailsForOne(), [run_of("t", "uid"), run_of("gone", "uid-2")])) == {"gone"}


async def test_rows_are_asked_for_later_when_the_api_server_does_not_answer(cluster: FakeCluster) -> None:
    def no_answer(_: str) -> None:
        raise ClusterError(0, "no answer")

    cluster.before_each = no_answer
    assert await closed(cluster, [run_of("t", "uid"), run_of("gone", "uid-2")]) == []
    assert cluster.requests == []


def invalid_rows() -> float:
    return metrics.INVALID_RECORDS.labels("row")._value.get()
