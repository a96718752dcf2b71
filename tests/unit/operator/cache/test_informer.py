"""Following Jobs and pods through watches that end, lists that lag and objects that nobody thought of."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from trainingtask_operator.cache import informer
from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.client.kubernetes import ClusterError

Item = dict[str, Any]


def item(uid: str, version: int) -> Item:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


def event(kind: str, uid: str, version: int) -> Item:
    return {"type": kind, "object": item(uid, version)}


class Scripted:
    """A cluster that answers each list and each watch with the next of its script; the last watch never ends."""

    def __init__(self, lists: list[list[Item]], watches: list[list[Item | ClusterError]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []
        self.done = asyncio.Event()

    async def children(self, kind: str) -> AsyncIterator[tuple[list[Item], str]]:
        self.asked.append(f"list {kind}")
        for one in self.lists.pop(0):
            yield [one], "10"

    async def watch_children(self, kind: str, version: str) -> AsyncGenerator[Item]:
        self.asked.append(f"watch {kind} from {version}")
        for step in self.watches.pop(0):
            if isinstance(step, ClusterError):
                raise step
            yield step
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "AFTER_TROUBLE_SECONDS", 0)
    monkeypatch.setattr(informer, "AFTER_END_SECONDS", 0)


async def follow(
    cluster: Scripted, seen: Callable[[str | None, Item], None], listed: Callable[[set[str]], None] = lambda _: None
) -> None:
    follower = Informer(cluster, "pods", seen, listed)  # type: ignore[arg-type] - only what it asks for
    running = asyncio.create_task(follower.run())
    await asyncio.wait_for(cluster.done.wait(), 5)
    assert follower.synced.is_set()
    running.cancel()


async def test_a_watch_goes_on_where_the_last_one_ended() -> None:
    seen: list[tuple[str | None, str]] = []
    cluster = Scripted(
        [[item("a", 3)]],
        [
            [event("ADDED", "b", 11), event("BOOKMARK", "", 15)],
            [ClusterError(0, "no answer")],
            [ClusterError(429, "too many requests")],
            [event("DELETED", "a", 16)],
        ],
    )
    await follow(cluster, lambda kind, body: seen.append((kind, body["metadata"]["uid"])))
    assert seen == [(None, "a"), ("ADDED", "b"), ("DELETED", "a")]
    assert cluster.asked == ["list pods", "watch pods from 10", *["watch pods from 15"] * 3]


@pytest.mark.parametrize("status", [410, 500])
async def test_a_version_that_is_gone_needs_a_new_list_which_tells_what_is_left(status: int) -> None:
    listed: list[set[str]] = []
    cluster = Scripted([[item("a", 1), item("b", 2)], [item("b", 2)]], [[ClusterError(status, "gone")], []])
    await follow(cluster, lambda *_: None, listed.append)
    assert listed == [{"a", "b"}, {"b"}]
    assert cluster.asked == ["list pods", "watch pods from 10"] * 2


async def test_an_object_without_metadata_stops_no_other() -> None:
    listed: list[set[str]] = []
    await follow(Scripted([[{"metadata": None}, item("a", 2)]], [[]]), lambda *_: None, listed.append)
    assert "a" in listed[0]
