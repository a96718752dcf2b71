"""Fields of Kubernetes objects in plain JSON: owners, uids, conditions, times. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trainingtask_api import names

Object = dict[str, Any]
Key = tuple[str, str]  # namespace and name of a task

WORKLOAD_KINDS = ("Job", names.JOBSET_KIND)
# Of Events about what a Job or a pod does not show itself.
EVENT_REASONS = ("FailedCreate", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
TERMINAL_CONDITIONS = ("Complete", "Failed")  # of tasks and of Jobs


@dataclass(frozen=True)
class KubeEvent:
    """An Event about a pod or a Job, reduced to what the object itself does not show."""

    message: str
    count: int
    time: datetime
    reason: str = ""

    @property
    def is_summary(self) -> bool:
        """Return whether the kubelet sums up that volumes are missing after minutes; another Event has the cause."""
        return self.message.startswith("Unable to attach or mount volumes")


def parse_time(text: str) -> datetime:
    """Return an API server's timestamp as an aware datetime.

    Raises
    ------
    ValueError
        When it is none, or one without a zone: that cannot be compared.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"a time without a zone: {text!r}")
    return time


def get_uid(item: Object) -> str:
    """Return the uid of an object, "" when it has none."""
    return _get_metadata_text(item, "uid")


def get_resource_version(item: Object) -> str:
    """Return the resource version of an object, "" when it has none."""
    return _get_metadata_text(item, "resourceVersion")


def _get_metadata_text(item: Object, field: str) -> str:
    metadata = item.get("metadata")
    value = metadata.get(field) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def get_owner_uid(child: Object) -> str:
    """Return the uid of an object's controller, "" when it has none."""
    owners = child["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def is_controlled_by(item: Object, uid: str) -> bool:
    """Return whether the object with this uid controls `item`; a label is no proof."""
    owners = item["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def get_labelled_task_uid(child: Object) -> str:
    """Return the task's uid in the labels of a Job, JobSet or pod, "" without the label."""
    return str((child["metadata"].get("labels") or {}).get(names.TASK_UID_LABEL, ""))


def get_labelled_task_key(child: Object) -> Key:
    """Return the namespace of a Job, JobSet or pod, and the task's name in its labels."""
    metadata = child["metadata"]
    return metadata.get("namespace", ""), (metadata.get("labels") or {}).get(names.TASK_NAME_LABEL, "")


def is_of_waiting(event: Object) -> bool:
    """Return whether an Event is about why a Job has no pod, or why a pod does not start."""
    return event.get("reason") in EVENT_REASONS


def get_regarding_uid(event: Mapping[str, Any]) -> str:
    """Return the uid of the object that an Event is about, in either of the two Event APIs."""
    return str((event.get("regarding") or event.get("involvedObject") or {}).get("uid", ""))


def get_container_status(status: Object) -> Object:
    """Return the status of the trainer's container from a pod's status, {} when there is none."""
    statuses: list[Object] = status.get("containerStatuses") or []
    return next((item for item in statuses if item.get("name") == names.TRAINER_CONTAINER), {})


def get_conditions(item: Object) -> list[Object]:
    """Return the conditions of a task or Job; values that are no conditions are left out."""
    status = item.get("status")
    found = status.get("conditions") if isinstance(status, Mapping) else None
    return [condition for condition in found if isinstance(condition, dict)] if isinstance(found, list) else []


def get_true_conditions(job: Object | None) -> dict[str, Object]:
    """Return the conditions of a trimmed Job or JobSet that are True, by type."""
    return {c["type"]: c for c in get_conditions(job or {}) if c.get("status") == "True"}


def is_finished(item: Object) -> bool:
    """Return whether a task, or a trimmed Job or JobSet, is Complete or Failed."""
    return any(c.get("type") in TERMINAL_CONDITIONS and c.get("status") == "True" for c in get_conditions(item))


def has_true_condition(item: Object, kind: str) -> bool:
    """Return whether a condition of an object is True."""
    return any(c.get("type") == kind and c.get("status") == "True" for c in get_conditions(item))


def is_pod_finished(pod: Object) -> bool:
    """Return whether a pod has Succeeded or Failed."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_of_group(pod: Object) -> bool:
    """Return whether a pod belongs to a JobSet."""
    return names.RESTART_COUNT_ANNOTATION in (pod["metadata"].get("annotations") or {})


def has_ttl(task: Object) -> bool:
    """Return whether a task's Job is to be deleted some time after it has finished."""
    return (task["spec"].get("runPolicy") or {}).get("ttlSecondsAfterFinished") is not None


def select_inherited(entries: Mapping[str, str], prefixes: Sequence[str]) -> dict[str, str]:
    """Return the labels or annotations of a task that its pods get as well.

    A prefix without a domain selects only keys without one: 'k' is not 'kueue.x-k8s.io/queue-name'.
    """
    return {
        key: value
        for key, value in entries.items()
        if not key.startswith(names.OWN_PREFIXES)
        and any(key.startswith(prefix) and ("/" in prefix or "/" not in key) for prefix in prefixes)
    }
