"""Event handlers: each updates the cache with the object of a watch event, and enqueues its task."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trainingtask_api import names
from trainingtask_operator import metrics
from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.cached_fields import (
    get_pod_labels,
    trim_job,
    trim_jobset,
    trim_kube_event,
    trim_kueue_workload,
    trim_pod,
    trim_task,
)
from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.controller.group_attempts import build_task_attempts
from trainingtask_operator.controller.run_records import build_cancelled_rows, select_log_pods
from trainingtask_operator.controller.task_parser import parse_task
from trainingtask_operator.history.recorder import Recorder
from trainingtask_operator.kube_objects import (
    Key,
    Object,
    get_labelled_task_key,
    get_labelled_task_uid,
    get_owner_uid,
    get_regarding_uid,
    has_true_condition,
    has_ttl,
    is_controlled_by,
    is_finished,
    is_of_group,
    is_of_waiting,
    parse_time,
)
from trainingtask_operator.malformed_records import skip_malformed
from trainingtask_operator.manager.backfill import Backfill
from trainingtask_operator.manager.gauges import TaskGauges
from trainingtask_operator.manager.predicates import has_changed, is_low_priority, is_progress_report

# A trainer reports every few seconds; reports of progress are reconciled less often.
PROGRESS_SECONDS = 10.0
# Kueue may change its words many times a second while it looks for quota; a status is written less often.
KUEUE_SECONDS = 3.0

log = logging.getLogger(__name__)


def _keep_skipped(handlers: "EventHandlers", kind: str | None, body: Any) -> None:
    """Let the resync know of an object that no store has: it would take it for one that no watch shows."""
    uid = body["metadata"].get("uid") if isinstance(body, dict) and isinstance(body.get("metadata"), dict) else None
    if isinstance(uid, str) and kind != "DELETED":
        handlers.cache.skipped.add(uid)


@dataclass
class EventHandlers:
    """The handlers. `kind` is ADDED, MODIFIED or DELETED, or None for an object of a list."""

    cache: AssumeCache
    queue: WorkQueue[Key]
    recorder: Recorder
    gauges: TaskGauges
    backfill: Backfill
    is_leader: Callable[[], bool]
    namespaces: dict[str, str] = field(default_factory=dict)  # name -> uid
    # Events of tasks in processing: uid and resource version.
    _deferred: dict[Key, list[tuple[str, str]]] = field(default_factory=dict, init=False)

    @skip_malformed("task", _keep_skipped)
    def on_task_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of a task."""
        metadata = body["metadata"]
        key, uid = (metadata["namespace"], metadata["name"]), metadata["uid"]
        if kind == "DELETED":
            self.backfill.discard(key)
            self.cache.tasks.remove(uid)
            self.gauges.forget(uid)
            self.cache.forget(uid)
            self._enqueue(key)  # a new task may have the name already
            self._record_deleted(trim_task(body))
            return
        task = trim_task(body, self.cache.inherited_prefixes)
        is_own_write = self.cache.confirm(task)
        self.gauges.set_state(uid, str((task.get("status") or {}).get("state") or "Pending"))
        before = self.cache.tasks.get_unfinished(uid)
        self.cache.tasks.put(key, uid, task)
        if is_finished(task):
            if kind is None:
                self.backfill.add([key])
            elif has_ttl(task):
                self._enqueue(key, priority=Priority.LOW)
            elif not is_own_write:
                self._enqueue_unless_own_write(key, task)
        elif before is not None and is_progress_report(before, task):
            if self.is_leader():
                self.queue.add_after(key, PROGRESS_SECONDS, priority=Priority.LOW)
        elif not is_own_write:
            self._enqueue_unless_own_write(key, task)

    @skip_malformed("job", _keep_skipped)
    def on_job_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of a Job: a task's, or one of a task's JobSet."""
        self._observe_creation(kind, body)
        self._on_child_event(self.cache.jobs, kind, body, trim_job)

    @skip_malformed("jobset", _keep_skipped)
    def on_jobset_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of a JobSet."""
        self._observe_creation(kind, body)
        self._on_child_event(self.cache.jobsets, kind, body, trim_jobset)

    @skip_malformed("workload")
    def on_kueue_workload_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of Kueue's Workload of any Job; only unfinished ones of tasks are kept."""
        if names.TASK_UID_LABEL not in get_pod_labels(body):
            return
        if kind != "DELETED" and has_true_condition(body, "Finished"):
            self.cache.kueue_workloads.remove(body["metadata"]["uid"])
            self.cache.forget(body["metadata"]["uid"])
            return
        self._on_child_event(self.cache.kueue_workloads, kind, body, trim_kueue_workload, delay=KUEUE_SECONDS)

    @skip_malformed("pod", _keep_skipped)
    def on_pod_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of a pod."""
        is_running = (body.get("status") or {}).get("phase") == "Running"
        if kind is not None and is_running and not is_of_group(body):  # a group runs once its last pod does
            self.gauges.set_pod_running(get_labelled_task_uid(body))
        self._on_child_event(self.cache.pods, kind, body, trim_pod)

    @skip_malformed("event")
    def on_kube_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of an Event about a Job or a pod."""
        namespace, uid = body["metadata"]["namespace"], body["metadata"]["uid"]
        if kind == "DELETED":
            self.cache.remove_kube_event(namespace, uid)
            return
        if not is_of_waiting(body):
            return
        regarding = get_regarding_uid(body)
        self.cache.put_kube_event(namespace, uid, regarding, trim_kube_event(body))
        key = self.cache.get_task_key(regarding)
        if key:
            self._enqueue(key)

    @skip_malformed("namespace")
    def on_namespace_event(self, kind: str | None, body: Object) -> None:
        """Handle the event of a namespace; one that is created again has another uid."""
        metadata = body["metadata"]
        if kind != "DELETED":
            self.namespaces[metadata["name"]] = metadata["uid"]
        elif self.namespaces.get(metadata["name"]) == metadata["uid"]:
            del self.namespaces[metadata["name"]]

    def prune_missing(self, store: ObjectStore, namespace: str | None, live: set[str]) -> None:
        """Drop the Jobs, JobSets or pods that a whole list did not show: they were deleted while the watch was down.

        Parameters
        ----------
        store
            Of one kind.
        namespace
            Where the list looked, None for all namespaces.
        live
            The uids that it showed.
        """
        keys = {uid: self.cache.get_task_key(uid) for uid in store.uids() - live}
        if namespace is not None:  # a child of an unknown task is left to the resync
            keys = {uid: key for uid, key in keys.items() if key and key[0] == namespace}
        self.cache.evict_stale(set(keys))
        for key in keys.values():
            if key:
                self._enqueue(key)

    def on_processed(self, key: Key) -> None:
        """Mark a task as processed; enqueue it again if another writer changed it meanwhile."""
        if any(not self.cache.is_own_write(*version) for version in self._deferred.pop(key, ())):
            self.queue.add(key)
        self.queue.done(key)

    def _observe_creation(self, kind: str | None, body: Object) -> None:
        """Observe how long a task waited for its new Job or JobSet."""
        if kind == "ADDED":
            for task in self.cache.tasks.get(get_labelled_task_key(body), []):
                if is_controlled_by(body, task["metadata"]["uid"]):
                    created = parse_time(task["metadata"]["creationTimestamp"])
                    metrics.JOB_SECONDS.observe((datetime.now(UTC) - created).total_seconds())

    def _on_child_event(
        self,
        store: ObjectStore,
        kind: str | None,
        body: Object,
        trim: Callable[[Object], Object],
        *,
        delay: float = 0.0,
    ) -> None:
        uid = body["metadata"]["uid"]
        if kind == "DELETED":
            store.remove(uid)
            self.cache.forget(uid)
        child = trim(body)
        task_uid, tasks = get_labelled_task_uid(child), self.cache.tasks
        # The owner of a Job is its task, whatever its labels are.
        key = tasks.get_key(get_owner_uid(child)) or tasks.get_key(task_uid) or get_labelled_task_key(child)
        if kind == "DELETED":
            self._enqueue(key)
            return
        is_own_write = self.cache.confirm(child)
        before, was_cached = store.get_unfinished(uid), store.has(uid)
        store.put(task_uid, uid, child)
        if kind is None:
            # After the first list every unfinished task is enqueued; of later lists, all but what had finished before.
            if self.cache.has_synced and (before is not None or not was_cached):
                is_changed = before is None or has_changed(before, child)
                is_low = not is_changed or is_low_priority(child)
                self._enqueue(key, priority=Priority.LOW if is_low else Priority.NORMAL)
        elif is_own_write or (before is not None and not has_changed(before, child)):
            return
        elif delay:
            if self.is_leader():
                self.queue.add_after(key, delay)
        else:
            self._enqueue_unless_own_write(
                key, child, priority=Priority.LOW if is_low_priority(child) else Priority.NORMAL
            )

    def _enqueue_unless_own_write(self, key: Key, body: Object, *, priority: Priority = Priority.NORMAL) -> None:
        """Enqueue the task; while it is in processing, defer that: the event may be of its own write, before the response."""
        if self.queue.is_processing(key):
            metadata = body["metadata"]
            self._deferred.setdefault(key, []).append((metadata["uid"], metadata["resourceVersion"]))
        else:
            self._enqueue(key, priority=priority)

    def _enqueue(self, key: Key, *, priority: Priority = Priority.NORMAL) -> None:
        """Enqueue the task on the leader; a standby's queue stays empty, so that it cannot grow without bound."""
        if self.is_leader():
            self.queue.add(key, priority=priority)

    def _record_deleted(self, body: Object) -> None:
        """Record the last state of a deleted task: an unfinished one was cancelled."""
        if not self.is_leader():
            return
        now = datetime.now(UTC)
        task = parse_task(body, now)
        if task is None:
            return
        if task.status and task.status.finished_at:
            self.recorder.forget(task)
        else:
            attempts = build_task_attempts(task, self.cache.observe_children(body).pods)
            log_pods = select_log_pods(task, attempts, is_deleting=True)  # the pods have their grace period
            self.recorder.submit(build_cancelled_rows(task, attempts, now), log_pods)
