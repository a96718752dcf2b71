"""The watched objects together with this process's newest writes: what a reconcile observes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainingtask_api import names
from trainingtask_operator.cache.cached_fields import trim_task, trim_workload
from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.kube_objects import (
    WORKLOAD_KINDS,
    Key,
    KubeEvent,
    Object,
    get_conditions,
    get_labelled_task_key,
    get_true_conditions,
    is_controlled_by,
    is_finished,
    is_pod_finished,
)

MAX_KUBE_EVENTS = 2000  # of a namespace


@dataclass(frozen=True)
class Observed:
    """A task with its Job or JobSet and pods, and the newest Events about those by their uid.

    Attributes
    ----------
    pod_owners
        The uids of the Jobs that own the pods: the task's Job, or those of its JobSet.
    kueue_workload
        Kueue's Workload of the Job, None when it has none.
    """

    task: Object
    job: Object | None
    pods: list[Object]
    kube_events: Mapping[str, KubeEvent] = field(default_factory=dict)
    pod_owners: frozenset[str] = frozenset()
    kueue_workload: Object | None = None

    @property
    def missing_pod_event(self) -> KubeEvent | None:
        """Return the newest Event about a pod that cannot be created."""
        events = (self.kube_events[uid] for uid in self.pod_owners if uid in self.kube_events)
        return max(events, key=lambda event: event.time, default=None)


class AssumeCache:
    """The stores of tasks, Jobs, JobSets, Workloads, pods and Events, corrected where a watch lags.

    - A watch lags behind this process's own writes: a Job just created would be created again on the next event. The
      result of a write is assumed until the watch has confirmed it.
    - Objects that were deleted while a watch was down stay (a relist after 410 reports no deletions). Comparing with a
      live list finds and evicts them.

    Attributes
    ----------
    inherited_prefixes
        Of the annotations of a task that its pods get as well.
    has_synced
        Whether all Jobs, JobSets and pods have been listed once.
    skipped
        Uids of tasks, Jobs, JobSets and pods that cannot be read: the watch shows them, though no store has them.
    """

    def __init__(self, inherited_prefixes: Sequence[str] = ()) -> None:
        self.inherited_prefixes = inherited_prefixes
        self.tasks, self.jobs, self.jobsets = (ObjectStore(is_finished) for _ in range(3))
        self.pods = ObjectStore(is_pod_finished)
        self._stores = (self.tasks, self.jobs, self.jobsets, self.pods)
        self.kueue_workloads = ObjectStore()
        self.kube_events = ObjectStore()
        self.has_synced = False
        self.skipped: set[str] = set()
        self._recent_events: dict[str, dict[str, None]] = {}  # namespace -> uids of its Events, oldest first
        self._task_keys: dict[str, Key] = {}  # uid of a Job, JobSet or pod -> its task
        self._assumed: dict[str, Object] = {}  # uid -> object
        self._assumed_jobs: dict[str, Object] = {}  # uid of the task -> its Job or JobSet
        self._written_versions: dict[str, str] = {}  # uid -> resource version of this process's last write

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Return the task with its children, None when there is no such task."""
        task = max(self._get_latest(self.tasks, (namespace, name)), key=_get_age, default=None)
        return self.observe_children(task) if task is not None else None

    def observe_children(self, task: Object) -> Observed:
        """Return a task, which may be deleted, with its children."""
        namespace, uid = task["metadata"]["namespace"], task["metadata"]["uid"]
        # Labels find the children, owner references prove them: anybody may set a label, in any namespace.
        jobs = [self._assumed_jobs[uid]] if uid in self._assumed_jobs else []
        labelled = self._get_latest(self.jobs, uid)
        jobs += [job for job in (*labelled, *self._get_latest(self.jobsets, uid)) if _is_child(job, namespace, uid)]
        job = max(jobs, key=_get_age, default=None)
        if job is None:
            return Observed(task, None, [])
        owners = [job["metadata"]["uid"]]
        if job["kind"] == names.JOBSET_KIND:
            children = [child for child in labelled if _is_child(child, namespace, owners[0])]
            owners = [child["metadata"]["uid"] for child in children]
            job = _take_deadline(job, children)
        pods = [
            pod for pod in self._get_latest(self.pods, uid) if any(_is_child(pod, namespace, owner) for owner in owners)
        ]
        uids = [*owners, *(pod["metadata"]["uid"] for pod in pods)]
        events = {child: self._get_event(namespace, child) for child in uids}
        workloads = [w for w in self.kueue_workloads.get(uid, ()) if _is_child(w, namespace, job["metadata"]["uid"])]
        return Observed(
            task,
            job,
            pods,
            {child: event for child, event in events.items() if event},
            frozenset(owners),
            max(workloads, key=_get_age, default=None),
        )

    def get_task_key(self, uid: str) -> Key | None:
        """Return the task of a Job, JobSet, Workload or pod."""
        return self._task_keys.get(uid)

    def assume(self, written: Object) -> None:
        """Use the result of a write in the place of the object until the watch has confirmed it."""
        written = trim_workload(written) if _is_workload(written) else trim_task(written, self.inherited_prefixes)
        metadata = written["metadata"]
        task_uid = _get_task_uid(written)
        store = self.jobsets if written["kind"] == names.JOBSET_KIND else self.jobs
        known = store.get(task_uid, ()) if task_uid else self.tasks.get((metadata["namespace"], metadata["name"]), ())
        self._written_versions[metadata["uid"]] = metadata["resourceVersion"]
        if any(i["metadata"]["uid"] == metadata["uid"] and _get_version(i) >= _get_version(written) for i in known):
            return  # the watch was faster than the response
        self._assumed[metadata["uid"]] = written
        if task_uid:
            self._assumed_jobs[task_uid] = written

    def confirm(self, item: Object) -> bool:
        """Drop what was assumed of an object once its watch event is as new; return whether the event is of that write."""
        uid = item["metadata"]["uid"]
        if names.TASK_UID_LABEL in (item["metadata"].get("labels") or {}):
            self._task_keys[uid] = get_labelled_task_key(item)
        assumed = self._assumed.get(uid)
        if assumed is None or _get_version(assumed) > _get_version(item):
            return False
        self._drop_assumed(uid)
        return _get_version(assumed) == _get_version(item)

    def is_own_write(self, uid: str, version: str) -> bool:
        """Return whether this process's last write made this version of the object."""
        return self._written_versions.get(uid) == version

    def forget(self, uid: str) -> None:
        """Drop what was assumed of a deleted object."""
        self._written_versions.pop(uid, None)
        self._task_keys.pop(uid, None)
        self._drop_assumed(uid)

    def uids(self) -> set[str]:
        """Return the uids of all objects that are cached, assumed or skipped."""
        return self.skipped.union(self._assumed, *(store.uids() for store in self._stores))

    def evict_stale(self, uids: set[str]) -> None:
        """Drop objects that a live list did not show; a uid never comes back."""
        self.skipped -= uids
        for uid in uids:
            for store in (*self._stores, self.kueue_workloads):
                store.remove(uid)
            self.forget(uid)

    def put_kube_event(self, namespace: str, uid: str, regarding: str, event: KubeEvent) -> None:
        """Store an Event, and drop a namespace's oldest beyond `MAX_KUBE_EVENTS`: its users may create any number."""
        recent = self._recent_events.setdefault(namespace, {})
        recent.pop(uid, None)
        recent[uid] = None
        # An Event is about objects of its own namespace, whatever uid it names.
        self.kube_events.put((namespace, regarding), uid, event)
        if len(recent) > MAX_KUBE_EVENTS:
            self.remove_kube_event(namespace, next(iter(recent)))

    def remove_kube_event(self, namespace: str, uid: str) -> None:
        """Drop an Event."""
        recent = self._recent_events.get(namespace, {})
        recent.pop(uid, None)
        if not recent:
            self._recent_events.pop(namespace, None)
        self.kube_events.remove(uid)

    def _get_event(self, namespace: str, uid: str) -> KubeEvent | None:
        events = self.kube_events.get((namespace, uid), ())
        return max(events, key=lambda event: (not event.is_summary, event.time), default=None)

    def _drop_assumed(self, uid: str) -> None:
        assumed = self._assumed.pop(uid, None)
        task_uid = _get_task_uid(assumed) if assumed else None
        if task_uid:
            self._assumed_jobs.pop(task_uid, None)

    def _get_latest(self, store: ObjectStore, key: Any) -> list[Object]:
        """Return the objects under `key`, each as assumed where the watch lags behind."""
        latest = []
        for item in store.get(key, ()):
            assumed = self._assumed.get(item["metadata"]["uid"])
            latest.append(assumed if assumed and _get_version(assumed) > _get_version(item) else item)
        return latest


def _is_child(item: Object, namespace: str, owner: str) -> bool:
    return item["metadata"].get("namespace") == namespace and is_controlled_by(item, owner)


def _take_deadline(jobset: Object, jobs: list[Object]) -> Object:
    """Return a JobSet that failed for the deadline of its Job with that reason: JobSet's own is that of any FailJobSet."""
    reason = {"reason": "DeadlineExceeded"}
    if not any(reason.items() <= c.items() for job in jobs for c in get_true_conditions(job).values()):
        return jobset
    conditions = [c | reason if c["type"] == "Failed" else c for c in get_conditions(jobset)]
    return {**jobset, "status": {**jobset["status"], "conditions": conditions}}


def _is_workload(item: Object) -> bool:
    return item.get("kind") in WORKLOAD_KINDS


def _get_task_uid(item: Object) -> str | None:
    """Return the uid of the task of a Job or JobSet, None for a task: its author may set any label."""
    return item["metadata"]["labels"].get(names.TASK_UID_LABEL) if _is_workload(item) else None


def _get_version(item: Object) -> int:
    """Return the resource version; API servers number versions upwards."""
    return int(item["metadata"]["resourceVersion"])


def _get_age(item: Object) -> tuple[str, int]:
    """Return a sort key by age; the creation time alone is cut to whole seconds."""
    return str(item["metadata"]["creationTimestamp"]), _get_version(item)
