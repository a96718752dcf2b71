"""The manager: wires the parts of the operator, starts them, and stops them in order."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta

from trainingtask_api import names
from trainingtask_operator import metrics
from trainingtask_operator.background_tasks import cancel_all, start_background_task
from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import Credentials, KubernetesClient, connect
from trainingtask_operator.client.leader_election import LeaderElector
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.history.orphans import close_orphans
from trainingtask_operator.history.pod_logs import build_log_reader
from trainingtask_operator.history.recorder import Recorder, RunRecorder
from trainingtask_operator.history.retention import delete_expired_runs
from trainingtask_operator.kube_objects import Key
from trainingtask_operator.manager.backfill import Backfill
from trainingtask_operator.manager.event_handlers import EventHandlers
from trainingtask_operator.manager.gauges import TaskGauges
from trainingtask_operator.manager.informers import InformerFactory
from trainingtask_operator.manager.resync import RESYNC_SECONDS, Resync
from trainingtask_operator.manager.workers import WORKERS, run_worker
from trainingtask_operator.settings import Settings, load_role_passwords

RETRY_SECONDS = 2.0
KUEUE_SYNC_SECONDS = 10.0
FINISH_RECONCILES_SECONDS = 8.0
FLUSH_HISTORY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Manager:
    """One replica of the operator."""

    def __init__(self, settings: Settings) -> None:
        url = os.environ.get(names.ENV_HISTORY_URL)
        self.recorder: Recorder = (
            RunRecorder(url, trainers=load_role_passwords(settings.namespaces)) if url else Recorder()
        )
        self.cache = AssumeCache(settings.inherited_prefixes)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.gauges = TaskGauges()
        self.backfill = Backfill(self.cache, self.queue, self.recorder)
        self.resync = Resync(
            self.cache, self.queue, self.gauges, settings.namespaces if settings.namespaced else [None]
        )
        self.event_handlers = EventHandlers(
            self.cache, self.queue, self.recorder, self.gauges, self.backfill, is_leader=lambda: self.is_leader
        )
        self._settings = settings
        self._elector: LeaderElector | None = None
        self._resources = contextlib.AsyncExitStack()

    async def start(self, login: Callable[[], Credentials]) -> None:
        """Connect to the API server, wait until namespaces, Jobs and pods are listed, and start the election and the workers."""
        client = await self._resources.enter_async_context(connect(login))
        factory = InformerFactory(client, self.event_handlers, self._settings.watched_namespaces)
        informers = factory.build_children()
        if not self._settings.namespaced:
            informers += factory.build_namespaces()
        kueue_informers = factory.build_workloads() if self._settings.kueue.enabled else []
        self._resources.push_async_callback(
            cancel_all, [start_background_task(informer.run()) for informer in (*informers, *kueue_informers)]
        )
        if self._settings.namespaced:
            await self.read_namespaces(client)
        # All Jobs, JobSets and pods are cached before any task is reconciled: without them it would seem to have none.
        for informer in informers:
            await informer.synced.wait()
        try:
            async with asyncio.timeout(KUEUE_SYNC_SECONDS):
                for informer in kueue_informers:
                    await informer.synced.wait()
        except TimeoutError:  # a broken Kueue keeps no other task waiting
            log.warning("Kueue's Workloads cannot be listed yet: queued tasks go without its words")
        self.cache.has_synced = True
        metrics.QUEUE_DEPTH.set_function(lambda: len(self.queue))
        metrics.QUEUE_AGE.set_function(lambda: self.queue.longest_wait_seconds)
        metrics.HISTORY_BACKLOG.set_function(lambda: self.recorder.backlog)
        loops = [self._run_as_leader(client), *(informer.run() for informer in factory.build_tasks())]
        if self._settings.namespaced:
            loops.append(self._refresh_namespaces(client))
        lease = os.environ.get(names.ENV_LEASE)
        if lease:
            namespace, _, name = lease.partition("/")
            identity = os.environ.get("POD_ID") or f"pid-{os.getpid()}"
            self._elector = LeaderElector(client, namespace, name, identity)
            loops.append(self._elector.run())
        else:
            metrics.LEADER.set(1)
        self._resources.push_async_callback(cancel_all, [start_background_task(loop) for loop in loops])

    async def stop(self) -> None:
        """Finish the running reconciles and write the submitted rows, within bounds; the next start does the rest."""
        await self._resources.aclose()

    @property
    def is_leader(self) -> bool:
        """Return whether this replica is the one that reconciles."""
        return self._elector is None or self._elector.elected.is_set()

    def on_started_leading(self) -> None:
        """Enqueue what a standby has not: the unfinished tasks at once, the finished ones after asking the history."""
        self.resync.last_run = time.monotonic()  # a standby makes none
        unfinished = self.cache.tasks.get_unfinished_keys()
        for key in unfinished:
            self.queue.add(key)
        self.backfill.add(set(self.cache.tasks) - set(unfinished))

    async def read_namespaces(self, client: KubernetesClient) -> None:
        """Read the namespaces of the settings that exist: without rights in the cluster they cannot be watched."""
        for name in self._settings.namespaces:
            while True:
                try:
                    self.event_handlers.on_namespace_event(None, await client.get_namespace(name))
                except ClusterError as error:
                    if error.status not in (403, 404):  # the rights in a namespace go with it
                        log.warning("namespace %s cannot be read: %s", name, error)
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                break

    async def _refresh_namespaces(self, client: KubernetesClient) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            await self.read_namespaces(client)

    async def _run_as_leader(self, client: KubernetesClient) -> None:
        """Wait until elected, then run the workers and the other loops until cancelled."""
        if self._elector is not None:
            await self._elector.elected.wait()
            self.on_started_leading()
        reconciler = Reconciler(client, self.cache, self._settings, self.recorder)
        workers = [
            start_background_task(run_worker(self.queue, reconciler, self.event_handlers.on_processed))
            for _ in range(WORKERS)
        ]
        enqueuers = [start_background_task(loop) for loop in (self.resync.run(client), self.backfill.run())]
        history = self._start_history(client, reconciler)
        try:
            await asyncio.Event().wait()
        finally:
            await cancel_all(enqueuers)
            self.queue.stop()
            await asyncio.wait(workers, timeout=FINISH_RECONCILES_SECONDS)
            await cancel_all(workers)
            await self.recorder.flush(FLUSH_HISTORY_SECONDS)
            await cancel_all(history)
            if self._elector is not None:
                await self._elector.release()

    def _start_history(self, client: KubernetesClient, reconciler: Reconciler) -> list["asyncio.Task[None]"]:
        recorder = self.recorder
        if not isinstance(recorder, RunRecorder):
            return []
        recorder.read_log = build_log_reader(client)

        def request_rows(key: Key) -> None:
            reconciler.forget_rows(key)
            self.queue.add(key, priority=Priority.LOW)

        recorder.request_rows = request_rows
        recorder.get_namespace_uid = self.event_handlers.namespaces.get
        readable = frozenset(self._settings.namespaces) if self._settings.namespaced else None
        loops = [recorder.run(), close_orphans(recorder, client, self.cache.tasks.has, readable)]
        days = self._settings.history.retention_days
        if days:
            loops.append(delete_expired_runs(recorder, timedelta(days=days)))
        return [start_background_task(loop) for loop in loops]
