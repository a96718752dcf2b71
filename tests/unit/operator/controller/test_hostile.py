"""Whatever the watches and the history hold: no handler raises, no loop ends, and the next valid object is handled."""

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, Rows, job_condition, running, terminated
from trainingtask_api import TrainingTask, names
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator import manager as app_module
from trainingtask_operator.cache import informer
from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.client.kubernetes import ClusterError
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.history import orphans
from trainingtask_operator.manager import App
from trainingtask_operator.settings import Settings

Object = dict[str, Any]

SETTINGS = Settings.model_validate({"namespaces": ["default"], "devices": {"cpu": {"image": "trainer:cpu"}}})
CREATED = "2026-01-01T00:00:00Z"
TIMES = [
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "0000-01-01T00:00:00Z",
    "infinity",
    "2026-01-01T00:00:00",
]
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("inf"),
    "",
    "x" * 9000,
    "a\x00b",
    [],
    [None],
    [{}],
    {},
    {"a": None},
    *TIMES,
]
MUTATIONS = st.lists(st.tuples(st.integers(0, 400), st.sampled_from([*VALUES, "delete"])), min_size=1, max_size=3)
KINDS = ("task", "job", "pod", "note", "namespace")
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def a_task(name: str = "t", *, ended: bool = False) -> Object:
    task = specs.task(name, specs.CLASSICAL)
    task["metadata"] |= {
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": CREATED,
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "managedFields": [{"manager": "kubectl"}],
    }
    report = {"attempt": 1, "phase": "Training", "reportTime": CREATED, "startTime": CREATED, "finishTime": CREATED}
    condition = {"type": "Complete" if ended else "Running", "status": "True", "reason": "R", "message": "m"}
    task["status"] = {
        "state": "Running",
        "attempt": 1,
        "podUid": "pod-t",
        "startTime": CREATED,
        "conditions": [{**condition, "lastTransitionTime": CREATED}],
        "attempts": [{"number": 1, "pod": "p", "startTime": CREATED}],
        "training": report,
    }
    return task


def a_job() -> Object:
    job = build_job(TrainingTask.model_validate({**a_task(), "status": None}), SETTINGS)
    job["metadata"] |= {"uid": "job-t", "resourceVersion": "2", "creationTimestamp": CREATED}
    return {**job, "status": {"startTime": CREATED, "conditions": [job_condition("FailureTarget")]}}


def a_pod(state: Object | None = None) -> Object:
    metadata = {
        "name": "t-0",
        "namespace": "default",
        "uid": "pod-t",
        "resourceVersion": "3",
        "creationTimestamp": CREATED,
        "labels": {names.TASK_UID_LABEL: "uid-t", names.TASK_NAME_LABEL: "t"},
        "annotations": {names.FAILURE_COUNT_ANNOTATION: "0"},
        "ownerReferences": [{"uid": "job-t", "controller": True, "kind": "Job"}],
    }
    container = {"name": names.TRAINER_CONTAINER, "image": "i", "resources": {"limits": {"memory": "1Gi"}}}
    status = {
        "phase": "Failed" if state and "terminated" in state else "Running",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Evicted", "message": "m"}],
        "containerStatuses": [{"name": names.TRAINER_CONTAINER, "state": state or running()}],
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n", "containers": [container]}, "status": status}


def a_note() -> Object:
    metadata = {"name": "e", "namespace": "default", "uid": "event-1", "creationTimestamp": CREATED}
    about = {"kind": "Job", "uid": "job-t", "namespace": "default"}
    series = {"count": 2, "lastObservedTime": CREATED}
    return {"metadata": metadata, "involvedObject": about, "message": "exceeded quota", "series": series}


def a_namespace() -> Object:
    return {"metadata": {"name": "default", "uid": "namespace-1", "resourceVersion": "1"}}


VALID: dict[str, Callable[[], Object]] = {
    "task": a_task,
    "job": a_job,
    "pod": lambda: a_pod(terminated(1, "killed")),
    "note": a_note,
    "namespace": a_namespace,
}


def mutated(body: Object, mutations: list[tuple[int, Any]]) -> Object:
    """Return the object with values replaced, or deleted, at some of its paths."""
    body = copy.deepcopy(body)
    for number, value in mutations:
        places = list(_places(body))
        if places:
            parent, key = places[number % len(places)]
            if value == "delete":
                del parent[key]
            else:
                parent[key] = copy.deepcopy(value)
    return body


def _places(item: Any) -> Iterator[tuple[Any, Any]]:
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in pairs:
        yield item, key
        yield from _places(value)


def seen(app: App, kind: str, event: str | None, body: Object) -> None:
    {"task": app.task_seen, "job": app.job_seen, "pod": app.pod_seen, "note": app.note_seen}.get(
        kind, app.namespace_seen
    )(event, body)


async def taken(app: App) -> list[tuple[str, str]]:
    found = []
    while len(app.queue):
        key = await app.queue.get()
        assert key is not None
        app.queue.done(key)
        found.append(key)
    return found


async def reconcile(app: App, key: tuple[str, str]) -> None:
    """Let the reconciler look at what the app holds; an API server may refuse, and nothing else may go wrong."""
    cluster = FakeCluster()
    reconciler = Reconciler(cluster, app._view, SETTINGS, Rows(), clock=lambda: NOW)
    with suppress(ClusterError):
        await reconciler.reconcile(*key)


@quick
@given(st.sampled_from(KINDS), MUTATIONS, st.sampled_from([None, "ADDED", "MODIFIED", "DELETED"]), st.booleans())
@example("note", [], "ADDED", True)
async def test_a_hostile_object_breaks_no_handler_and_no_reconcile(
    kind: str, mutations: list[tuple[int, Any]], event: str | None, known: bool
) -> None:
    app = App(SETTINGS)
    if known:
        for other, make in VALID.items():
            seen(app, other, "ADDED", make())
    seen(app, kind, event, mutated(VALID[kind](), mutations))
    await taken(app)
    for key in list(app.tasks):
        await reconcile(app, key)
    seen(app, "task", "ADDED", a_task("next"))
    assert ("default", "next") in await taken(app), "the next valid object is handled"
    await reconcile(app, ("default", "next"))
    app.count_states()


@quick
@given(MUTATIONS)
async def test_a_hostile_task_that_ended_ends_no_loop(mutations: list[tuple[int, Any]]) -> None:
    app = App(SETTINGS)
    seen(app, "task", None, mutated(a_task(ended=True), mutations))
    seen(app, "task", None, a_task("next", ended=True))
    checking = asyncio.create_task(app._check_ended())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not checking.done()
    assert not app._unchecked
    checking.cancel()


class Hostile:
    """An API server whose lists and watches hold odd objects among valid ones."""

    def __init__(self, items: list[Object]) -> None:
        self.items = items
        self.lists = 0
        self.listed_twice = asyncio.Event()
        self.watched = asyncio.Event()

    async def tasks(self) -> AsyncIterator[Object]:
        self.lists += 1
        if self.lists == 2:
            self.listed_twice.set()
        for item in self.items:
            yield item

    async def namespaces(self) -> AsyncIterator[Object]:
        for item in self.items:
            yield item

    async def children(self, kind: str) -> AsyncIterator[tuple[list[Object], str]]:
        yield self.items, "10"

    async def watch_children(self, kind: str, version: str) -> AsyncGenerator[Object]:
        for item in self.items:
            yield {"type": "MODIFIED", "object": item}
        self.watched.set()
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "RESYNC_SECONDS", 0)
    monkeypatch.setattr(informer, "AFTER_TROUBLE_SECONDS", 0)
    monkeypatch.setattr(orphans, "FIRST_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(orphans, "LOOK_SECONDS", 0.0)


@quick
@given(st.sampled_from(["job", "pod"]), MUTATIONS)
@example("pod", [(0, "delete"), (0, "delete"), (0, "delete")])
async def test_hostile_lists_and_watches_end_no_loop(kind: str, mutations: list[tuple[int, Any]]) -> None:
    app = App(SETTINGS)
    last = a_pod() | {"metadata": a_pod()["metadata"] | {"uid": "pod-last"}}
    cluster: Any = Hostile([mutated(VALID[kind](), mutations), last])
    listed: list[set[str]] = []
    follower = Informer(cluster, "pods", app.job_seen if kind == "job" else app.pod_seen, listed.append)
    loops = [asyncio.create_task(loop) for loop in (follower.run(), app._resync(cluster))]
    async with asyncio.timeout(5):
        await cluster.watched.wait()
        await app._learn_namespaces(cluster)
        await cluster.listed_twice.wait()
    assert not any(loop.done() for loop in loops)
    assert "pod-last" in listed[0]
    for loop in loops:
        loop.cancel()


@quick
@given(st.text(max_size=70), st.text(max_size=70), st.text(max_size=40))
@example("default", "", "u")
@example("default", "t", "u")
async def test_a_hostile_row_ends_no_loop_and_the_next_is_closed(namespace: str, name: str, uid: str) -> None:
    class History:
        def __init__(self) -> None:
            self.looks: asyncio.Queue[list[str]] = asyncio.Queue()

        async def close_orphans(self, exists: Callable[[OpenRun], Any]) -> None:
            rows = [OpenRun("1", uid, namespace, name, None), OpenRun("2", "u", "default", "gone", None)]
            self.looks.put_nowait([run.id for run in rows if not await exists(run)])

    class Lists(FakeCluster):
        """Answers as an API server does that is asked for a task without a name: with a list."""

        async def get_task(self, namespace: str, name: str) -> Object:
            if not (namespace == "default" and name == "gone"):
                return {"kind": "TrainingTaskList", "metadata": {"resourceVersion": "1"}, "items": []}
            return await super().get_task(namespace, name)

    history: Any = History()
    looking = asyncio.create_task(orphans.close_orphans(history, Lists(), lambda _: False))
    async with asyncio.timeout(5):
        for _ in range(2):
            assert "2" in await history.looks.get()
    assert not looking.done()
    looking.cancel()
