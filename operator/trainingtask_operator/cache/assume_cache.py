"""The watched objects, as the reconciler sees them: the indexes, less their ghosts, plus our own newest writes."""

from typing import Any

from trainingtask_api import names
from trainingtask_operator.cache.store import Index
from trainingtask_operator.cache.transform import kept_job, kept_task
from trainingtask_operator.controller.diagnosis import Note
from trainingtask_operator.controller.job_builder import controlled_by
from trainingtask_operator.controller.reconciler import Object, Observed


class WatchedObjects:
    """`View` over the indexes.

    Two things a bare index gets wrong:

    - It lags behind our own writes. A Job just created would be created again on the next event, so what a write
      returned stands in until the watch has caught up with it.
    - It keeps objects that were deleted while a watch was down (a relist after 410 reports no deletions). A comparison
      with a live list finds them.
    """

    def __init__(self, tasks: Index, jobs: Index, pods: Index, notes: Index) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._pods = pods
        self._notes = notes
        self._task_of: dict[str, tuple[str, str]] = {}  # uid of a Job or pod -> its task
        self._written: dict[str, Object] = {}  # uid -> object
        self._written_jobs: dict[str, Object] = {}  # uid of the task -> its Job
        self._last_written: dict[str, str] = {}  # uid -> resource version

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what is known of the task, None when there is no such task."""
        task = max(self._latest(self._tasks, (namespace, name)), key=_age, default=None)
        if task is None:
            return None
        uid = task["metadata"]["uid"]
        # Labels find the children, owners prove them: a label is anybody's to set, in any namespace.
        jobs = [self._written_jobs[uid]] if uid in self._written_jobs else []
        jobs += [job for job in self._latest(self._jobs, uid) if self._belongs(job, namespace, uid)]
        job = max(jobs, key=_age, default=None)
        pods = [
            pod
            for pod in self._latest(self._pods, uid)
            if job is not None and self._belongs(pod, namespace, job["metadata"]["uid"])
        ]
        children = [*pods, job] if job else []
        notes = {child["metadata"]["uid"]: self._note(namespace, child["metadata"]["uid"]) for child in children}
        return Observed(task, job, pods, {uid: note for uid, note in notes.items() if note})

    def task_of(self, uid: str) -> tuple[str, str] | None:
        """Return the task of a Job or a pod."""
        return self._task_of.get(uid)

    def wrote(self, written: Object) -> None:
        """Let the result of a write stand in for the object until the watch has caught up."""
        written = kept_job(written) if _is_job(written) else kept_task(written)
        metadata = written["metadata"]
        task_uid = _task_uid(written)
        known = (
            self._jobs.get(task_uid, ()) if task_uid else self._tasks.get((metadata["namespace"], metadata["name"]), ())
        )
        self._last_written[metadata["uid"]] = metadata["resourceVersion"]
        if any(item["metadata"]["uid"] == metadata["uid"] and _version(item) >= _version(written) for item in known):
            return  # the watch was faster than the response
        self._written[metadata["uid"]] = written
        if task_uid:
            self._written_jobs[task_uid] = written

    def saw(self, event: Object) -> bool:
        """Note a watch event: it overtakes our own write when it is as new. Tell whether it shows just that write."""
        uid = event["metadata"]["uid"]
        labels = event["metadata"].get("labels") or {}
        if names.TASK_UID_LABEL in labels:
            self._task_of[uid] = (event["metadata"]["namespace"], labels.get(names.TASK_NAME_LABEL, ""))
        written = self._written.get(uid)
        if written is None or _version(written) > _version(event):
            return False
        self._forget(uid)
        return _version(written) == _version(event)

    def is_ours(self, uid: str, version: str) -> bool:
        """Tell whether our last write made this version of the object."""
        return self._last_written.get(uid) == version

    def gone(self, uid: str) -> None:
        """Note that the object of this uid was deleted."""
        self._last_written.pop(uid, None)
        self._task_of.pop(uid, None)
        self._forget(uid)

    def uids(self) -> set[str]:
        """Return the uids of all objects that are believed to exist."""
        return self._tasks.uids() | self._jobs.uids() | self._pods.uids() | set(self._written)

    def bury(self, uids: set[str]) -> None:
        """Drop objects that a live list did not show; a uid never comes back."""
        for uid in uids:
            for index in (self._tasks, self._jobs, self._pods):
                index.remove(uid)
            self.gone(uid)

    def _note(self, namespace: str, uid: str) -> Note | None:
        return max(self._notes.get((namespace, uid), ()), key=lambda note: note.when, default=None)

    def _forget(self, uid: str) -> None:
        written = self._written.pop(uid, None)
        task_uid = _task_uid(written) if written else None
        if task_uid:
            self._written_jobs.pop(task_uid, None)

    def _latest(self, index: Index, key: Any) -> list[Object]:
        """Return the objects under `key`, as our own last write left them if the watch lags behind."""
        latest = []
        for item in index.get(key, ()):
            mine = self._written.get(item["metadata"]["uid"])
            latest.append(mine if mine and _version(mine) > _version(item) else item)
        return latest

    @staticmethod
    def _belongs(item: Object, namespace: str, owner: str) -> bool:
        return item["metadata"].get("namespace") == namespace and controlled_by(item, owner)


def _is_job(item: Object) -> bool:
    return bool(item.get("kind") == "Job")


def _task_uid(item: Object) -> str | None:
    """Return the uid of the task of a Job, None of a task: its labels are its author's, whatever they say."""
    return item["metadata"]["labels"].get(names.TASK_UID_LABEL) if _is_job(item) else None


def _version(item: Object) -> int:
    """Return the resource version; API servers number versions upwards."""
    return int(item["metadata"]["resourceVersion"])


def _age(item: Object) -> tuple[str, int]:
    """Return what sorts objects by age; the creation time alone is cut to whole seconds."""
    return str(item["metadata"]["creationTimestamp"]), _version(item)
