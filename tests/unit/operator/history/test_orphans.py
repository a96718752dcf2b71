"""Which rows are closed as those of deleted tasks; closing one is final."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from support.in_memory_api_server import FakeCluster
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator import metrics
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.history import orphans


class FakeRecorder:
    """A recorder with open rows, which keeps the names of those without a task."""

    def __init__(self, runs: list[OpenRun]) -> None:
        self.runs = runs
        self.closed: list[str] = []
        self.searched = asyncio.Event()

    async def close_orphans(self, exists: Callable[[OpenRun], Awaitable[bool]]) -> None:
        try:
            self.closed += [run.name for run in self.runs if not await exists(run)]
        finally:
            self.searched.set()


def make_run(name: str, uid: str, namespace: str = "default") -> OpenRun:
    return OpenRun(id=uid, task_uid=uid, namespace=namespace, name=name, start_time=None)


async def close(
    cluster: FakeCluster, runs: list[OpenRun], watched: str = "", namespaces: set[str] | None = None
) -> list[str]:
    recorder: Any = FakeRecorder(runs)
    searching = asyncio.create_task(orphans.close_orphans(recorder, cluster, lambda uid: uid == watched, namespaces))
    await asyncio.wait_for(recorder.searched.wait(), 60)
    searching.cancel()
    with suppress(asyncio.CancelledError):
        await searching
    return list(recorder.closed)


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "RETRY_SECONDS", 0.0)


async def test_rows_of_deleted_and_recreated_tasks_are_closed(cluster: FakeCluster) -> None:
    task = cluster.add_task({"metadata": {"namespace": "default", "name": "t"}})
    runs = [make_run("t", task["metadata"]["uid"]), make_run("t", "earlier"), make_run("gone", "uid")]
    assert await close(cluster, runs) == ["t", "gone"]


async def test_rows_of_namespaces_without_rights_stay_open(cluster: FakeCluster) -> None:
    runs = [make_run("gone", "uid"), make_run("unknown", "uid", namespace="elsewhere")]
    assert await close(cluster, runs, namespaces={"default"}) == ["gone"]
    assert len(cluster.requests) == 1


async def test_a_namespace_whose_rights_are_gone_is_asked_at_the_usual_interval(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    def forbid(_: str) -> None:
        raise ClusterError(403, "forbidden")

    cluster.before_each = forbid
    reported: set[Any] = set()
    for _ in range(2):
        search = orphans._Search(cluster, lambda _: False, reported, {"default"})
        assert await search.exists(make_run("t", "uid"))
        assert search.is_complete
        reported = search.skipped
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_watched_task_is_not_requested(cluster: FakeCluster) -> None:
    assert await close(cluster, [make_run("t", "watched")], watched="watched") == []
    assert cluster.requests == []


async def test_no_row_is_closed_while_the_resource_is_not_served(cluster: FakeCluster) -> None:
    def not_served(_: str) -> None:
        raise ClusterError(404, "404 Not Found")

    cluster.before_each = not_served
    assert await close(cluster, [make_run("t", "uid")]) == []


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
async def test_a_row_with_an_impossible_name_is_counted_and_skipped(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture, namespace: str, name: str
) -> None:
    runs = [make_run(name, "bad", namespace), make_run("gone", "uid")]
    before = invalid_rows()
    assert await close(cluster, runs) == ["gone"]
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

    assert set(await close(FailsForOne(), [make_run("t", "uid"), make_run("gone", "uid-2")])) == {"gone"}


async def test_no_row_is_closed_while_the_api_server_does_not_answer(cluster: FakeCluster) -> None:
    def no_answer(_: str) -> None:
        raise ClusterError(0, "no answer")

    cluster.before_each = no_answer
    assert await close(cluster, [make_run("t", "uid"), make_run("gone", "uid-2")]) == []
    assert cluster.requests == []


def invalid_rows() -> float:
    return metrics.INVALID_RECORDS.labels("row")._value.get()
