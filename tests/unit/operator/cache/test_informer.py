"""Informers whose watches end or expire, and whose objects are malformed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from trainingtask_operator.cache import informer
from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.kube_objects import Object


def item(uid: str, version: int) -> Object:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


def event(kind: str, uid: str, version: int) -> Object:
    return {"type": kind, "object": item(uid, version)}


class ScriptedClient:
    """A client with a script: each list and each watch returns the next entry; the last watch never ends."""

    def __init__(self, lists: list[list[Object] | ClusterError], watches: list[list[Object | ClusterError]]) -> None:
        self.lists, self.watches = lists, watches
        self.calls: list[str] = []
        self.done = asyncio.Event()

    async def list_objects(self, kind: str, namespace: str | None) -> AsyncIterator[tuple[list[Object], str]]:
        self.calls.append(f"list {kind}")
        listed = self.lists.pop(0)
        if isinstance(listed, ClusterError):
            raise listed
        for one in listed:
            yield [one], "10"

    async def watch_objects(self, kind: str, version: str, namespace: str | None) -> AsyncGenerator[Object]:
        self.calls.append(f"watch {kind} from {version}")
        for step in self.watches.pop(0):
            if isinstance(step, ClusterError):
                raise step
            yield step
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "NOT_SERVED_PAUSE_SECONDS", 0)
    monkeypatch.setattr(informer, "ERROR_PAUSE_SECONDS", 0)
    monkeypatch.setattr(informer, "RECONNECT_PAUSE_SECONDS", 0)


async def run_informer(
    client: ScriptedClient,
    on_event: Callable[[str | None, Object], None],
    on_list: Callable[[set[str]], None] = lambda _: None,
    **options: Any,
) -> None:
    running_informer = Informer(client, "pods", on_event, on_list, **options)  # type: ignore[arg-type] - the two methods it uses
    running = asyncio.create_task(running_informer.run())
    await asyncio.wait_for(client.done.wait(), 60)
    assert running_informer.synced.is_set()
    running.cancel()


async def test_a_watch_goes_on_where_the_last_one_ended() -> None:
    events: list[tuple[str | None, str]] = []
    client = ScriptedClient(
        [[item("a", 3)]],
        [
            [event("ADDED", "b", 11), event("BOOKMARK", "", 15)],
            [ClusterError(0, "no answer")],
            [ClusterError(429, "too many requests")],
            [event("DELETED", "a", 16)],
        ],
    )
    await run_informer(client, lambda kind, body: events.append((kind, body["metadata"]["uid"])))
    assert events == [(None, "a"), ("ADDED", "b"), ("DELETED", "a")]
    assert client.calls == ["list pods", "watch pods from 10", *["watch pods from 15"] * 3]


@pytest.mark.parametrize("status", [410, 500])
async def test_an_expired_version_needs_a_new_list(status: int) -> None:
    listed: list[set[str]] = []
    client = ScriptedClient([[item("a", 1), item("b", 2)], [item("b", 2)]], [[ClusterError(status, "gone")], []])
    await run_informer(client, lambda *_: None, listed.append)
    assert listed == [{"a", "b"}, {"b"}]
    assert client.calls == ["list pods", "watch pods from 10"] * 2


async def test_an_object_without_metadata_stops_no_other() -> None:
    listed: list[set[str]] = []
    await run_informer(ScriptedClient([[{"metadata": None}, item("a", 2)]], [[]]), lambda *_: None, listed.append)
    assert "a" in listed[0]


async def test_a_kind_that_appears_and_goes_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    missing = ClusterError(404, "the server could not find the requested resource")
    events: list[tuple[str | None, str]] = []
    client = ScriptedClient(
        [missing, missing, [item("a", 1)], missing, [item("b", 12)]],
        [[event("DELETED", "a", 11), missing], []],
    )
    await run_informer(client, lambda kind, body: events.append((kind, body["metadata"]["uid"])), is_optional=True)
    assert events == [(None, "a"), ("DELETED", "a"), (None, "b")]
    assert caplog.records == [], "a cluster without it needs no warnings"


async def test_a_namespace_without_rights_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    forbidden = ClusterError(403, "pods is forbidden")
    events: list[tuple[str | None, str]] = []
    client = ScriptedClient([forbidden, forbidden, [item("a", 1)], forbidden, [item("a", 12)]], [[forbidden], []])
    await run_informer(client, lambda kind, body: events.append((kind, body["metadata"]["uid"])), namespace="n")
    assert events == [(None, "a"), (None, "a")]
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["pods of namespace n cannot be watched: pods is forbidden"] * 2, "one for each time they go"


async def test_rights_in_the_whole_cluster_are_waited_for() -> None:
    client = ScriptedClient([ClusterError(403, "pods is forbidden"), [item("a", 1)]], [[]])
    listed: list[set[str]] = []
    await run_informer(client, lambda *_: None, listed.append)
    assert listed == [{"a"}]
