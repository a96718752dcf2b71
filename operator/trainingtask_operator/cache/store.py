"""What the watches showed last. Objects that have ended are many and seldom read: they are kept packed."""

import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from trainingtask_api import names
from trainingtask_operator.controller.attempts import container_status
from trainingtask_operator.controller.diagnosis import why_waiting

Object = dict[str, Any]


class Index(Mapping[Any, list[Any]]):
    """Objects by a key, several of which may share one.

    A finished task with the scores of 28 labels takes 40 KB as dictionaries and 2 KB packed; reading it then costs
    0.1 ms, which is done once or twice after the task has ended.
    """

    def __init__(self, is_over: Callable[[Object], bool] = lambda _: False) -> None:
        """Make an index whose objects are packed once `is_over` says so."""
        self._is_over = is_over
        self._items: dict[Hashable, dict[str, Any]] = {}  # key -> uid -> object, or its packed form
        self._key_of: dict[str, Hashable] = {}

    def put(self, key: Hashable, uid: str, item: Any) -> None:
        """Keep `item` under `key`, in the place of what has the same uid under any key."""
        if self._key_of.get(uid, key) != key:
            self.remove(uid)
        self._key_of[uid] = key
        packed = zlib.compress(to_json(item), level=1) if self._is_over(item) else item
        self._items.setdefault(key, {})[uid] = packed

    def remove(self, uid: str) -> None:
        """Drop what has this uid, if there is such a thing."""
        key = self._key_of.pop(uid, None)
        if key is not None:
            del self._items[key][uid]
            if not self._items[key]:
                del self._items[key]

    def key_of(self, uid: str) -> Any | None:
        """Return the key of what has this uid, None if there is no such thing."""
        return self._key_of.get(uid)

    def not_over(self, uid: str) -> Any | None:
        """Return what has this uid if it is there and not over."""
        item = self._items[self._key_of[uid]][uid] if uid in self._key_of else None
        return None if isinstance(item, bytes) else item

    def has(self, uid: str) -> bool:
        """Tell whether there is something with this uid."""
        return uid in self._key_of

    def uids(self) -> set[str]:
        """Return the uids of all objects."""
        return set(self._key_of)

    def open_keys(self) -> list[Any]:
        """Return the keys with an object that is not over."""
        return [key for key, items in self._items.items() if not all(isinstance(i, bytes) for i in items.values())]

    def __getitem__(self, key: Hashable) -> list[Any]:
        return [
            from_json(zlib.decompress(item)) if isinstance(item, bytes) else item for item in self._items[key].values()
        ]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def uid_of(item: Object) -> str:
    """Return the uid of an object, "" when it has none."""
    return _identity(item, "uid")


def version_of(item: Object) -> str:
    """Return the resource version of an object, "" when it has none."""
    return _identity(item, "resourceVersion")


def _identity(item: Object, field: str) -> str:
    metadata = item.get("metadata")
    value = metadata.get(field) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def about(event: Object) -> str:
    """Return the uid of what an Event is about."""
    return str((event.get("regarding") or event.get("involvedObject") or {}).get("uid", ""))


def task_uid(child: Object) -> str:
    """Return the uid of the task that a Job or pod says it belongs to."""
    return str((child["metadata"].get("labels") or {}).get(names.TASK_UID_LABEL, ""))


def owner_uid(child: Object) -> str:
    """Return the uid of what controls an object, "" when nothing does."""
    owners = child["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def task_key(child: Object) -> tuple[str, str]:
    """Return namespace and name of the task that a Job or pod says it belongs to."""
    metadata = child["metadata"]
    return metadata.get("namespace", ""), (metadata.get("labels") or {}).get(names.TASK_NAME_LABEL, "")


def has_ttl(task: Object) -> bool:
    """Tell whether something is left to do for a task that has ended: its Job goes after a while."""
    return (task["spec"].get("runPolicy") or {}).get("ttlSecondsAfterFinished") is not None


def job_is_over(job: Object) -> bool:
    """Tell whether a Job is Complete or Failed."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c.get("type") in ("Complete", "Failed") and c.get("status") == "True" for c in conditions)


def pod_is_over(pod: Object) -> bool:
    """Tell whether a pod has Succeeded or Failed."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def differ(before: Object, after: Object) -> bool:
    """Tell whether two states of an object differ in anything that is kept, its version left aside."""
    return {**before, "metadata": _lasting(before)} != {**after, "metadata": _lasting(after)}


def only_training_differs(before: Object, after: Object) -> bool:
    """Tell whether the trainer's report is all that changed of a task, and does not end the training."""
    report = (after.get("status") or {}).get("training") or {}
    return not report.get("finishTime") and not differ(_without_training(before), _without_training(after))


def _without_training(task: Object) -> Object:
    return {**task, "status": {**(task.get("status") or {}), "training": None}}


def _lasting(item: Object) -> Object:
    return {**item["metadata"], "resourceVersion": None}


def is_on_its_way(child: Object) -> bool:
    """Tell whether a Job or pod is on its way to its start or to its success, which its Job tells as a whole.

    It neither starts to run nor is it in trouble: of a thousand, the others are looked at first.
    """
    if "deletionTimestamp" in child["metadata"]:
        return False
    status = child.get("status") or {}
    if child["kind"] == "Job":
        true = {
            condition.get("type") for condition in status.get("conditions", []) if condition.get("status") == "True"
        }
        return true <= {"SuccessCriteriaMet"}
    if status.get("phase") == "Succeeded":
        return True
    return status.get("phase") == "Pending" and why_waiting(status, container_status(status), None) is None
