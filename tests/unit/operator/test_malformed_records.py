"""Malformed objects and rows: no handler raises, no loop ends, and the next valid object is handled."""

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition, running, terminated
from trainingtask_api import TrainingTask, names
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator.cache import informer
from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.history import orphans
from trainingtask_operator.kube_objects import Key, Object
from trainingtask_operator.manager import resync
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import Settings

DEVICE = {"image": "trainer:cpu", "resources": {"cpu": "1", "memory": "2Gi"}}
SETTINGS = Settings.model_validate({"namespaces": ["default"], "devices": {"cpu": DEVICE}})
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
KINDS = ("task", "job", "jobset", "workload", "pod", "event", "namespace")
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def make_task(name: str = "t", *, ended: bool = False) -> Object:
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


def make_job() -> Object:
    job = build_job(TrainingTask.model_validate({**make_task(), "status": None}), SETTINGS)
    job["spec"]["suspend"] = True
    job["metadata"] |= {"uid": "job-t", "resourceVersion": "2", "creationTimestamp": CREATED}
    return {**job, "status": {"startTime": CREATED, "conditions": [job_condition("FailureTarget")]}}


def make_jobset() -> Object:
    job = make_job()
    conditions = [job_condition("Failed"), {**job_condition("Suspended"), "status": "False"}]
    metadata = {**job["metadata"], "uid": "jobset-t"}
    return {**job, "kind": names.JOBSET_KIND, "metadata": metadata, "status": {"conditions": conditions}}


def make_kueue_workload() -> Object:
    metadata = make_job()["metadata"] | {
        "uid": "workload-t",
        "name": "job-t-w",
        "labels": {},
        "annotations": {"a": "b"},
    }
    metadata["ownerReferences"] = [{"uid": "job-t", "controller": True, "kind": "Job"}]
    labels = {names.TASK_UID_LABEL: "uid-t", names.TASK_NAME_LABEL: "t"}
    spec = {"active": True, "queueName": "q", "podSets": [{"template": {"metadata": {"labels": labels}}}]}
    checks = [{"name": "c", "state": "Pending", "message": "m"}]
    return {
        "kind": "Workload",
        "metadata": metadata,
        "spec": spec,
        "status": {"conditions": [job_condition("QuotaReserved")], "admissionChecks": checks},
    }


def make_pod(state: Object | None = None) -> Object:
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
        "containerStatuses": [
            {"name": names.TRAINER_CONTAINER, "state": state or running()},
            {"name": "sidecar", "state": running()},
        ],
        "initContainerStatuses": [
            {"name": "init", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}}}
        ],
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n", "containers": [container]}, "status": status}


def make_event() -> Object:
    metadata = {"name": "e", "namespace": "default", "uid": "event-1", "creationTimestamp": CREATED}
    about = {"kind": "Job", "uid": "job-t", "namespace": "default"}
    series = {"count": 2, "lastObservedTime": CREATED}
    event = {"metadata": metadata, "involvedObject": about, "message": "exceeded quota", "series": series}
    return {**event, "reason": "FailedCreate"}


def make_namespace() -> Object:
    return {"metadata": {"name": "default", "uid": "namespace-1", "resourceVersion": "1"}}


VALID: dict[str, Callable[[], Object]] = {
    "task": make_task,
    "job": make_job,
    "jobset": make_jobset,
    "workload": make_kueue_workload,
    "pod": lambda: make_pod(terminated(1, "killed")),
    "event": make_event,
    "namespace": make_namespace,
}


def mutate(body: Object, mutations: list[tuple[int, Any]]) -> Object:
    """Return the object with values replaced, or deleted, at some of its paths."""
    body = copy.deepcopy(body)
    for number, value in mutations:
        paths = list(_iterate_paths(body))
        if paths:
            parent, key = paths[number % len(paths)]
            if value == "delete":
                del parent[key]
            else:
                parent[key] = copy.deepcopy(value)
    return body


def _iterate_paths(item: Any) -> Iterator[tuple[Any, Any]]:
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in pairs:
        yield item, key
        yield from _iterate_paths(value)


def handle(manager: Manager, kind: str, event: str | None, body: Object) -> None:
    handlers = manager.event_handlers
    {
        "task": handlers.on_task_event,
        "job": handlers.on_job_event,
        "jobset": handlers.on_jobset_event,
        "workload": handlers.on_kueue_workload_event,
        "pod": handlers.on_pod_event,
        "event": handlers.on_kube_event,
        "namespace": handlers.on_namespace_event,
    }[kind](event, body)


async def drain(manager: Manager) -> list[Key]:
    found = []
    while len(manager.queue):
        key = await manager.queue.get()
        assert key is not None
        manager.queue.done(key)
        found.append(key)
    return found


async def reconcile(manager: Manager, key: Key) -> None:
    """Reconcile what is cached; the API server may refuse a request, and nothing else may fail."""
    cluster = FakeCluster()
    reconciler = Reconciler(cluster, manager.cache, SETTINGS, FakeRecorder(), clock=lambda: NOW)
    with suppress(ClusterError):
        await reconciler.reconcile(*key)


@quick
@given(st.sampled_from(KINDS), MUTATIONS, st.sampled_from([None, "ADDED", "MODIFIED", "DELETED"]), st.booleans())
@example("event", [], "ADDED", True)
@example("pod", [(2, "x" * 254)], "ADDED", True)  # the pod's name
@example("pod", [(4, "x" * 129)], "ADDED", True)  # its uid
@example("pod", [(18, "x" * 254)], "ADDED", True)  # its node
async def test_a_malformed_object_breaks_no_handler_and_no_reconcile(
    kind: str, mutations: list[tuple[int, Any]], event: str | None, known: bool
) -> None:
    manager = Manager(SETTINGS)
    if known:
        for other, make in VALID.items():
            handle(manager, other, "ADDED", make())
    handle(manager, kind, event, mutate(VALID[kind](), mutations))
    await drain(manager)
    for key in list(manager.cache.tasks):
        await reconcile(manager, key)
    handle(manager, "task", "ADDED", make_task("next"))
    assert ("default", "next") in await drain(manager), "the next valid object is handled"
    await reconcile(manager, ("default", "next"))
    manager.gauges.update()


@quick
@given(MUTATIONS)
async def test_a_malformed_finished_task_ends_no_loop(mutations: list[tuple[int, Any]]) -> None:
    manager = Manager(SETTINGS)
    handle(manager, "task", None, mutate(make_task(ended=True), mutations))
    handle(manager, "task", None, make_task("next", ended=True))
    running = asyncio.create_task(manager.backfill.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    assert not manager.backfill._pending
    running.cancel()


class MalformedClient:
    """An API server whose lists and watches hold malformed objects among valid ones."""

    def __init__(self, items: list[Object]) -> None:
        self.items = items
        self.lists = 0
        self.listed_twice = asyncio.Event()
        self.watched = asyncio.Event()

    async def list_objects(self, kind: str, namespace: str | None) -> AsyncIterator[tuple[list[Object], str]]:
        self.lists += kind == "tasks"
        if self.lists == 2:
            self.listed_twice.set()
        yield self.items, "10"

    async def watch_objects(self, kind: str, version: str, namespace: str | None) -> AsyncGenerator[Object]:
        for item in self.items:
            yield {"type": "MODIFIED", "object": item}
        self.watched.set()
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "RESYNC_SECONDS", 0)
    monkeypatch.setattr(informer, "ERROR_PAUSE_SECONDS", 0)
    monkeypatch.setattr(orphans, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(orphans, "INTERVAL_SECONDS", 0.0)


@quick
@given(st.sampled_from(["job", "pod"]), MUTATIONS)
@example("pod", [(0, "delete"), (0, "delete"), (0, "delete")])
async def test_malformed_lists_and_watches_end_no_loop(kind: str, mutations: list[tuple[int, Any]]) -> None:
    manager = Manager(SETTINGS)
    last = make_pod() | {"metadata": make_pod()["metadata"] | {"uid": "pod-last"}}
    client: Any = MalformedClient([mutate(VALID[kind](), mutations), last])
    listed: list[set[str]] = []
    handlers = manager.event_handlers
    on_event = handlers.on_job_event if kind == "job" else handlers.on_pod_event
    pods = Informer(client, "pods", on_event, listed.append)
    namespaces = Informer(client, "namespaces", handlers.on_namespace_event, lambda _: None)
    loops = [asyncio.create_task(loop) for loop in (pods.run(), namespaces.run(), manager.resync.run(client))]
    async with asyncio.timeout(60):
        await client.watched.wait()
        await namespaces.synced.wait()
        await client.listed_twice.wait()
    assert not any(loop.done() for loop in loops)
    assert "pod-last" in listed[0]
    for loop in loops:
        loop.cancel()


async def test_a_skipped_object_is_not_missing_from_the_watch() -> None:
    """Else the liveness probe would end the process again and again, for an object that any user may create."""
    manager = Manager(SETTINGS)
    skipped = make_pod()
    skipped["metadata"] |= {"uid": "pod-odd", "ownerReferences": [{"uid": "u" * 129, "controller": True}]}
    client: Any = MalformedClient([skipped])
    pods = Informer(client, "pods", manager.event_handlers.on_pod_event, lambda _: None)
    loops = [asyncio.create_task(loop) for loop in (pods.run(), manager.resync.run(client))]
    async with asyncio.timeout(60):
        await client.watched.wait()
        client.lists = 0
        client.listed_twice.clear()
        await client.listed_twice.wait()
    assert manager.cache.skipped == {"pod-odd"}
    assert not manager.resync.missing
    for loop in loops:
        loop.cancel()
    manager.cache.evict_stale({"pod-odd"})
    assert not manager.cache.skipped


@quick
@given(st.text(max_size=70), st.text(max_size=70), st.text(max_size=40))
@example("default", "", "u")
@example("default", "t", "u")
async def test_a_malformed_row_ends_no_loop_and_the_next_is_closed(namespace: str, name: str, uid: str) -> None:
    class FakeRecorder:
        def __init__(self) -> None:
            self.searches: asyncio.Queue[list[str]] = asyncio.Queue()

        async def close_orphans(self, exists: Callable[[OpenRun], Any]) -> None:
            rows = [OpenRun("1", uid, namespace, name, None), OpenRun("2", "u", "default", "gone", None)]
            self.searches.put_nowait([run.id for run in rows if not await exists(run)])

    class ListingCluster(FakeCluster):
        """Return a list, as an API server does for a task without a name."""

        async def get_task(self, namespace: str, name: str) -> Object:
            if not (namespace == "default" and name == "gone"):
                return {"kind": "TrainingTaskList", "metadata": {"resourceVersion": "1"}, "items": []}
            return await super().get_task(namespace, name)

    fake: Any = FakeRecorder()
    searching = asyncio.create_task(orphans.close_orphans(fake, ListingCluster(), lambda _: False))
    async with asyncio.timeout(60):
        for _ in range(2):
            assert "2" in await fake.searches.get()
    assert not searching.done()
    searching.cancel()
