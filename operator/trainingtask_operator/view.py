"""The watched objects, as the reconciler sees them: kopf's indexes, less their ghosts, plus our own newest writes."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainingtask_api import names
from trainingtask_operator.jobs import controlled_by
from trainingtask_operator.reconciler import Object, Observed

Index = Mapping[Any, Iterable[Object]]


class WatchedObjects:
    """`View` over three indexes.

    Two things a bare index gets wrong:

    - It lags behind our own writes. A Job just created would be created again on the next event, so what a write
      returned stands in until the watch has caught up with it.
    - It keeps objects that were deleted while a watch was down (a relist after 410 reports no deletions). A comparison
      with a live list marks them; a uid never comes back, so a ghost stays one.
    """

    def __init__(self, tasks: Index, jobs: Index, pods: Index) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._pods = pods
        self._written: dict[str, Object] = {}  # uid -> object
        self._written_jobs: dict[str, Object] = {}  # uid of the task -> its Job
        self._ghosts: set[str] = set()

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what is known of the task, None when there is no such task."""
        task = max(self._live(self._tasks, (namespace, name)), key=_age, default=None)
        if task is None:
            return None
        uid = task["metadata"]["uid"]
        # Labels find the children, owners prove them: a label is anybody's to set, in any namespace.
        jobs = [self._written_jobs[uid]] if uid in self._written_jobs else []
        jobs += [job for job in self._live(self._jobs, uid) if self._belongs(job, namespace, uid)]
        job = max(jobs, key=_age, default=None)
        pods = [
            pod
            for pod in self._live(self._pods, uid)
            if job is not None and self._belongs(pod, namespace, job["metadata"]["uid"])
        ]
        return Observed(task, job, pods)

    def wrote(self, written: Object) -> None:
        """Let the result of a write stand in for the object until the watch has caught up."""
        metadata = written["metadata"]
        task_uid = (metadata.get("labels") or {}).get(names.TASK_UID_LABEL)
        known = (
            self._jobs.get(task_uid, ()) if task_uid else self._tasks.get((metadata["namespace"], metadata["name"]), ())
        )
        if any(item["metadata"]["uid"] == metadata["uid"] and _version(item) >= _version(written) for item in known):
            return  # the watch was faster than the response
        self._written[metadata["uid"]] = written
        if task_uid:
            self._written_jobs[task_uid] = written

    def saw(self, event: Object) -> None:
        """Note a watch event: it overtakes our own write when it is as new."""
        uid = event["metadata"]["uid"]
        written = self._written.get(uid)
        if written is not None and _version(written) <= _version(event):
            self._forget(uid)

    def tasks(self) -> list[tuple[str, str]]:
        """Return namespace and name of every task."""
        return list(self._tasks)

    def uids(self) -> set[str]:
        """Return the uids of all objects that are believed to exist."""
        return (self.indexed() | set(self._written)) - self._ghosts

    def indexed(self) -> set[str]:
        """Return the uids of all objects in the indexes, ghosts among them."""
        indexes = (self._tasks, self._jobs, self._pods)
        return {item["metadata"]["uid"] for index in indexes for store in index.values() for item in store}

    def bury(self, uids: set[str]) -> None:
        """Mark objects that a live list did not show."""
        self._ghosts = (self._ghosts | uids) & self.indexed()  # what the indexes have dropped needs no mark
        for uid in uids:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        written = self._written.pop(uid, None)
        task_uid = ((written or {}).get("metadata", {}).get("labels") or {}).get(names.TASK_UID_LABEL)
        if task_uid:
            self._written_jobs.pop(task_uid, None)

    def _live(self, index: Index, key: Any) -> list[Object]:
        """Return the objects under `key` that are no ghosts, as our own last write left them if the watch lags behind."""
        live = [item for item in index.get(key, ()) if item["metadata"]["uid"] not in self._ghosts]
        written = (self._written.get(item["metadata"]["uid"]) for item in live)
        return [
            mine if mine and _version(mine) > _version(item) else item for mine, item in zip(written, live, strict=True)
        ]

    @staticmethod
    def _belongs(item: Object, namespace: str, owner: str) -> bool:
        return item["metadata"].get("namespace") == namespace and controlled_by(item, owner)


def _version(item: Object) -> int:
    """Return the resource version; API servers number versions upwards."""
    return int(item["metadata"]["resourceVersion"])


def _age(item: Object) -> tuple[str, int]:
    """Return what sorts objects by age; the creation time alone is cut to whole seconds."""
    return str(item["metadata"]["creationTimestamp"]), _version(item)
