"""The watched objects, as the reconciler sees them: kopf's indexes, less their ghosts, plus our own newest writes."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainingtask_api import names
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
        task = self._one(self._tasks, (namespace, name))
        if task is None:
            return None
        uid = task["metadata"]["uid"]
        job = self._one(self._jobs, uid) or self._written_jobs.get(uid)
        pods = [pod for pod in self._pods.get(uid, ()) if pod["metadata"]["uid"] not in self._ghosts]
        return Observed(task, job, pods)

    def wrote(self, written: Object) -> None:
        """Let the result of a write stand in for the object until the watch has caught up."""
        self._written[written["metadata"]["uid"]] = written
        task_uid = (written["metadata"].get("labels") or {}).get(names.TASK_UID_LABEL)
        if task_uid:
            self._written_jobs[task_uid] = written

    def saw(self, event: Object) -> None:
        """Note a watch event: it overtakes our own write when it is as new."""
        uid = event["metadata"]["uid"]
        written = self._written.get(uid)
        if written is not None and not _newer(written, event):
            self._forget(uid)

    def tasks(self) -> list[tuple[str, str]]:
        """Return namespace and name of every task."""
        return list(self._tasks)

    def uids(self) -> set[str]:
        """Return the uids of all objects that are believed to exist."""
        indexed = (
            item["metadata"]["uid"]
            for index in (self._tasks, self._jobs, self._pods)
            for store in index.values()
            for item in store
        )
        return (set(indexed) | set(self._written)) - self._ghosts

    def bury(self, uids: set[str]) -> None:
        """Mark objects that a live list did not show."""
        self._ghosts |= uids
        for uid in uids:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        written = self._written.pop(uid, None)
        task_uid = ((written or {}).get("metadata", {}).get("labels") or {}).get(names.TASK_UID_LABEL)
        if task_uid:
            self._written_jobs.pop(task_uid, None)

    def _one(self, index: Index, key: Any) -> Object | None:
        """Return the newest live object under `key`, as our own last write left it if the watch lags behind."""
        live = [item for item in index.get(key, ()) if item["metadata"]["uid"] not in self._ghosts]
        if not live:
            return None
        newest = max(live, key=lambda item: str(item["metadata"]["creationTimestamp"]))
        written = self._written.get(newest["metadata"]["uid"])
        return written if written is not None and _newer(written, newest) else newest


def _newer(one: Object, other: Object) -> bool:
    """Tell whether `one` is the later version of the same object; API servers number versions upwards."""
    return int(one["metadata"]["resourceVersion"]) > int(other["metadata"]["resourceVersion"])
