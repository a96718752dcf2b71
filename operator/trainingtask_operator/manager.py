"""The running operator: what the watches show goes into the indexes and the queue, and workers take it from there."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from trainingtask_api import names
from trainingtask_operator import metrics
from trainingtask_operator.background import cancel, start
from trainingtask_operator.cache.assume_cache import WatchedObjects
from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.cache.store import (
    Index,
    Object,
    about,
    differ,
    has_ttl,
    is_on_its_way,
    job_is_over,
    only_training_differs,
    owner_uid,
    pod_is_over,
    task_key,
    task_uid,
    uid_of,
)
from trainingtask_operator.cache.transform import kept_job, kept_note, kept_pod, kept_task
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.client.kubernetes import Cluster, ClusterError, Credentials, connect
from trainingtask_operator.client.leader_election import Leadership
from trainingtask_operator.controller.attempts import attempts_of, parse_time
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.controller.run_records import cancelled_rows, logs_of
from trainingtask_operator.controller.task_parser import has_ended, parse
from trainingtask_operator.history.orphans import close_orphans
from trainingtask_operator.history.pod_logs import log_reader
from trainingtask_operator.history.recorder import HistoryWriter, NoHistory
from trainingtask_operator.logs import about as logging_about
from trainingtask_operator.malformed import skips_malformed
from trainingtask_operator.settings import Settings, load_passwords

WORKERS = 32
RESYNC_SECONDS = 300.0
RETRY_SECONDS = 2.0
# A trainer reports every few seconds; what its report says beyond what people read is looked at less often.
PROGRESS_SECONDS = 10.0
FINISH_WORK_SECONDS = 8.0
FLUSH_HISTORY_SECONDS = 5.0

Key = tuple[str, str]

log = logging.getLogger(__name__)


class App:
    """Everything between the watches and the API server. Handlers call `…_seen`; the rest runs by itself."""

    def __init__(self, settings: Settings) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self.tasks, self.jobs, self.pods = Index(has_ended), Index(job_is_over), Index(pod_is_over)
        self.notes = Index()
        self.namespaces: dict[str, str] = {}  # name -> uid
        self.synced = False
        self.leadership: Leadership | None = None
        self.last_resync = time.monotonic()
        self.unseen: set[str] = set()  # uids that two live lists in a row showed and no watch did
        self._view = WatchedObjects(self.tasks, self.jobs, self.pods, self.notes)
        self._settings = settings
        self._states: dict[str, str] = {}  # uid -> state of the task
        self._during_work: dict[Key, list[tuple[str, str]]] = {}  # events of tasks at work: uid, resource version
        self._running_since: dict[str, float] = {}  # uid of a task whose status does not say so yet -> when seen
        self._unchecked: dict[Key, None] = {}  # tasks that had ended before this process started
        self._some_unchecked = asyncio.Event()
        self._resources = contextlib.AsyncExitStack()
        url = os.environ.get(names.ENV_HISTORY_URL)
        self.history = HistoryWriter(url, trainers=load_passwords(settings.namespaces)) if url else NoHistory()

    async def start(self, login: Callable[[], Credentials]) -> None:
        """Connect to the cluster, learn which Jobs and pods there are, and start working."""
        cluster = await self._resources.enter_async_context(connect(login))
        # All Jobs and pods are known before any task is looked at: without them it would seem to have none.
        followers = [
            Informer(cluster, "jobs", self.job_seen, partial(self._only, self.jobs)),
            Informer(cluster, "pods", self.pod_seen, partial(self._only, self.pods)),
        ]
        self._resources.push_async_callback(cancel, [start(follower.run()) for follower in followers])
        await self._learn_namespaces(cluster)
        for follower in followers:
            await follower.synced.wait()
        self.synced = True
        metrics.QUEUE_DEPTH.set_function(lambda: len(self.queue))
        metrics.QUEUE_AGE.set_function(lambda: self.queue.age)
        metrics.HISTORY_BACKLOG.set_function(lambda: self.history.backlog)
        loops = [self._act(cluster)]
        lease = os.environ.get(names.ENV_LEASE)
        if lease:
            namespace, _, name = lease.partition("/")
            self.leadership = Leadership(cluster, namespace, name, os.environ.get("POD_ID") or f"pid-{os.getpid()}")
            loops.append(self.leadership.run())
        else:
            metrics.LEADER.set(1)
        running = [start(loop) for loop in loops]
        self._resources.push_async_callback(cancel, running)

    async def stop(self) -> None:
        """Finish the work at hand and the rows that wait, within bounds; the rest is done after the next start."""
        await self._resources.aclose()

    @property
    def is_acting(self) -> bool:
        """Whether this replica is the one that acts."""
        return self.leadership is None or self.leadership.held.is_set()

    @skips_malformed("task")
    def task_seen(self, kind: str | None, body: Object) -> None:
        """Take a task from a watch, or from a list (`kind` is None)."""
        metadata = body["metadata"]
        key, uid = (metadata["namespace"], metadata["name"]), metadata["uid"]
        if kind == "DELETED":
            self._unchecked.pop(key, None)
            self.tasks.remove(uid)
            self._states.pop(uid, None)
            self._running_since.pop(uid, None)
            self._view.gone(uid)
            self._add(key)  # another one may have its name already
            self._deleted(kept_task(body))
            return
        task = kept_task(body)
        mine = self._view.saw(task)
        self._note_state(uid, str((task.get("status") or {}).get("state") or "Pending"))
        before = self.tasks.not_over(uid)
        self.tasks.put(key, uid, task)
        if has_ended(task):
            if kind is None:
                self._unchecked[key] = None
                self._some_unchecked.set()
            elif has_ttl(task):
                self._add(key, later=True)
            elif not mine:
                self._look(key, task)
        elif before is not None and only_training_differs(before, task):
            if self.is_acting:
                self.queue.add_after(key, PROGRESS_SECONDS, later=True)
        elif not mine:
            self._look(key, task)

    def _look(self, key: Key, body: Object, *, later: bool = False) -> None:
        """Queue the task; while it is at work, wait for what that work wrote: this may be its event, faster than the response."""
        if self.queue.is_at_work(key):
            metadata = body["metadata"]
            self._during_work.setdefault(key, []).append((metadata["uid"], metadata["resourceVersion"]))
        else:
            self._add(key, later=later)

    def _add(self, key: Key, *, later: bool = False) -> None:
        """Queue the task. A standby's queue stays empty: it would hold whatever it ever saw, and fills as it takes over."""
        if self.is_acting:
            self.queue.add(key, later=later)

    def take_over(self) -> None:
        """Queue what a standby has to look at as it becomes the leader: like after a start."""
        self.last_resync = time.monotonic()  # a standby makes none
        ended = set(self.tasks)
        for key in self.tasks.open_keys():
            ended.discard(key)
            self.queue.add(key)
        self._unchecked |= dict.fromkeys(ended)
        self._some_unchecked.set()

    def _note_state(self, uid: str, state: str) -> None:
        self._states[uid] = sys.intern(state)
        since = self._running_since.pop(uid, None) if state != "Pending" else None
        if since is not None:
            metrics.RUNNING_SECONDS.observe(time.monotonic() - since)

    def count_states(self) -> None:
        """Bring the metric of tasks by state up to date."""
        metrics.TASKS.clear()
        for state, number in Counter(self._states.values()).items():
            metrics.TASKS.labels(state).set(number)

    @skips_malformed("job")
    def job_seen(self, kind: str | None, body: Object) -> None:
        """Take a Job."""
        if kind == "ADDED":
            for task in self.tasks.get(task_key(body), []):
                created = parse_time(task["metadata"]["creationTimestamp"])
                metrics.JOB_SECONDS.observe((datetime.now(UTC) - created).total_seconds())
        self._child_seen(self.jobs, kind, body, kept_job)

    @skips_malformed("pod")
    def pod_seen(self, kind: str | None, body: Object) -> None:
        """Take a pod."""
        of = task_uid(body)
        if (
            kind is not None
            and (body.get("status") or {}).get("phase") == "Running"
            and self._states.get(of, "Running") != "Running"  # the pod of a deleted task runs on for its grace period
        ):
            self._running_since.setdefault(of, time.monotonic())
        self._child_seen(self.pods, kind, body, kept_pod)

    @skips_malformed("event")
    def note_seen(self, kind: str | None, body: Object) -> None:
        """Take an Event about a Job or a pod."""
        uid = body["metadata"]["uid"]
        if kind == "DELETED":
            self.notes.remove(uid)
            return
        # An Event is about objects of its own namespace, whatever uid it names.
        self.notes.put((body["metadata"]["namespace"], about(body)), uid, kept_note(body))
        key = self._view.task_of(about(body))
        if key:
            self._add(key)

    @skips_malformed("namespace")
    def namespace_seen(self, kind: str | None, body: Object) -> None:
        """Take a namespace: a later one of the same name is another one."""
        metadata = body["metadata"]
        if kind != "DELETED":
            self.namespaces[metadata["name"]] = metadata["uid"]
        elif self.namespaces.get(metadata["name"]) == metadata["uid"]:
            del self.namespaces[metadata["name"]]

    def _child_seen(self, index: Index, kind: str | None, body: Object, kept: Callable[[Object], Object]) -> None:
        uid = body["metadata"]["uid"]
        if kind == "DELETED":
            index.remove(uid)
            self._view.gone(uid)
        child = kept(body)
        # The owner of a Job is its task, whatever a person has made of the labels.
        key = self.tasks.key_of(owner_uid(child)) or self.tasks.key_of(task_uid(child)) or task_key(child)
        if kind == "DELETED":
            self._add(key)
            return
        mine = self._view.saw(child)
        before, was_known = index.not_over(uid), index.has(uid)
        index.put(task_uid(child), uid, child)
        if kind is None:
            # Before the start every open task is to be looked at anyway; of later lists, what has ended is no news.
            if self.synced and (before is not None or not was_known):
                is_news = before is None or differ(before, child)
                self._add(key, later=not is_news or is_on_its_way(child))
        elif not mine and (before is None or differ(before, child)):
            self._look(key, child, later=is_on_its_way(child))

    def _only(self, index: Index, live: set[str]) -> None:
        """Drop the Jobs or pods that a whole list did not show: they were deleted while no watch looked."""
        gone = index.uids() - live
        keys = [self._view.task_of(uid) for uid in gone]
        self._view.bury(gone)
        for key in keys:
            if key:
                self._add(key)

    def _deleted(self, body: Object) -> None:
        """Take the last state of a task that was deleted: an unfinished one was cancelled."""
        if not self.is_acting:
            return
        now = datetime.now(UTC)
        task = parse(body, now)
        if task is None:
            return
        if task.status and task.status.finished_at:
            self.history.forget(task)
        else:
            attempts = attempts_of(self.pods.get(task.metadata.uid, []), task.status)
            logs = logs_of(task, attempts, going=True)  # while the pod has its grace period
            self.history.submit(cancelled_rows(task, attempts, now), logs)

    async def _learn_namespaces(self, cluster: Cluster) -> None:
        """Know all namespaces before the first row is written; kopf does not say when it has listed them."""
        while True:
            try:
                async for namespace in cluster.namespaces():
                    self.namespace_seen(None, namespace)
            except ClusterError as error:
                log.warning("the namespaces cannot be listed: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _act(self, cluster: Cluster) -> None:
        """Work, as soon as this replica is the one to do it."""
        if self.leadership is not None:
            await self.leadership.held.wait()
            self.take_over()
        reconciler = Reconciler(cluster, self._view, self._settings, self.history)
        workers = [start(self._work(reconciler)) for _ in range(WORKERS)]
        others = [start(self._resync(cluster)), start(self._check_ended())]
        if isinstance(self.history, HistoryWriter):
            self.history.read_log = log_reader(cluster)
            self.history.again = lambda key: self.queue.add(key, later=True)
            self.history.namespace_uid = self.namespaces.get
            others += [start(self.history.run()), start(close_orphans(self.history, cluster, self.tasks.has))]
            days = self._settings.history.retention_days
            if days:
                others.append(start(self.history.prune(timedelta(days=days))))
        try:
            await asyncio.Event().wait()
        finally:
            await cancel(others[:2])
            self.queue.stop()
            await asyncio.wait(workers, timeout=FINISH_WORK_SECONDS)
            await cancel(workers)
            await self.history.flush(FLUSH_HISTORY_SECONDS)
            await cancel(others)
            if self.leadership is not None:
                await self.leadership.release()

    async def _work(self, reconciler: Reconciler) -> None:
        while (key := await self.queue.get()) is not None:
            begin = time.monotonic()
            with logging_about(namespace=key[0], task=key[1]):
                await self._reconcile(reconciler, key)
            metrics.RECONCILE_SECONDS.observe(time.monotonic() - begin)
            self.finish(key)
            await asyncio.sleep(0)  # a reconcile that needs no request would never let the watches in

    def finish(self, key: Key) -> None:
        """Mark the work on a task as done; it is looked at again if somebody else changed something meanwhile."""
        if any(not self._view.is_ours(*version) for version in self._during_work.pop(key, ())):
            self.queue.add(key)
        self.queue.done(key)

    async def _reconcile(self, reconciler: Reconciler, key: Key) -> None:
        try:
            again = await reconciler.reconcile(*key)
        except ClusterError as error:
            metrics.RECONCILE_ERRORS.labels("api").inc()
            delay = self.queue.retry(key)
            log.warning("%s/%s: %s; next try in %.1f s", *key, error, delay)
        except Exception:
            # A defect must not take the other tasks down with it: log it in full, keep trying this one.
            metrics.RECONCILE_ERRORS.labels("defect").inc()
            log.exception("%s/%s: the reconcile failed", *key)
            self.queue.retry(key)
        else:
            self.queue.forget(key)
            if again is not None:
                self.queue.add_after(key, again.total_seconds(), later=True)

    async def _check_ended(self) -> None:
        """Look at the tasks that ended before this process started, but for those whose end is on record.

        There may be ten thousand of them, and one that still needs something: the history is asked in batches.
        """
        while True:
            self._some_unchecked.clear()
            while self._unchecked:
                keys = list(self._unchecked)[: HistoryWriter.BATCH]
                bodies = [(key, task) for key in keys for task in self.tasks.get(key, [])]
                recorded = await self.history.recorded([task for _, task in bodies])
                for key, task in bodies:
                    if task["metadata"]["uid"] not in recorded or has_ttl(task):
                        self.queue.add(key, later=True)
                for key in keys:
                    self._unchecked.pop(key, None)
                await asyncio.sleep(0)
            await self._some_unchecked.wait()

    async def _resync(self, cluster: Cluster) -> None:
        """Hold the indexes against a live list now and then, and look at every open task again."""
        missing: set[str] = set()
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            believed = self._view.uids()  # before the list: what is created meanwhile is not taken for a ghost
            live: set[str] = set()
            try:
                async for item in cluster.tasks():
                    live.add(uid_of(item))
                for kind in ("jobs", "pods"):
                    async for items, _ in cluster.children(kind):
                        live |= {uid_of(item) for item in items}
            except ClusterError as error:
                log.warning("resync: %s", error)
                continue
            ghosts = believed - live
            if ghosts:
                log.info("resync: %d objects were deleted while no watch was looking", len(ghosts))
                self._view.bury(ghosts)
                for uid in ghosts:
                    self._states.pop(uid, None)
            unknown = live - self._view.uids()
            self.unseen, missing = unknown & missing, unknown
            self.last_resync = time.monotonic()
            for key in self.tasks.open_keys():
                self.queue.add(key, later=True)
