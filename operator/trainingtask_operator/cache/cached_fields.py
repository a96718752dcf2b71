"""The fields of tasks, Jobs, JobSets, Workloads, pods and Events that are kept in memory: those that a reconcile reads. Pure.

A trimmed object is small and has the types that a reconcile relies on: anything else raises one of
`malformed_records.MALFORMED`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from trainingtask_api import names
from trainingtask_api.status import UNOBSERVED_STATUS
from trainingtask_operator.kube_objects import (
    TERMINAL_CONDITIONS,
    KubeEvent,
    Object,
    get_container_status,
    get_regarding_uid,
    parse_time,
    select_inherited,
)

# A task with more labels than this, keys and values together, is cached and recorded without any.
MAX_LABELS_CHARACTERS = 4096
MAX_ANNOTATIONS_CHARACTERS = 16384  # the same of the annotations that its pods get
MAX_ARGUMENTS_BYTES = 16384  # of a report, which have no schema: more are cached and recorded as none
_MAX_NAME_CHARACTERS = 253
_MAX_EVENT_CHARACTERS = 1024  # as events.k8s.io allows
_MAX_MESSAGE_CHARACTERS = 4096  # as many bytes as the kubelet reads of a termination message
_MAX_MARK_CHARACTERS = 64  # of an annotation that holds a count, or true or false

_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
_MAX_LENGTHS = {"uid": 128}
_METADATA = (*_IDENTITY, "generation", "deletionTimestamp")
_CHILD_LABELS = (names.TASK_NAME_LABEL, names.TASK_UID_LABEL, names.QUEUE_LABEL)
_JOB_SPEC = ("suspend", "ttlSecondsAfterFinished")
_JOB_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_JOBSET_CONDITIONS = {"Completed": "Complete", "Failed": "Failed"}  # name of a JobSet's condition -> of a Job's
_POD_STATUS = ("phase", "reason", "message")
_POD_CONDITION = ("type", "status", "reason", "message")
_POD_CONDITION_TYPES = ("DisruptionTarget", "PodScheduled")
_POD_ANNOTATIONS = (
    names.FAILURE_COUNT_ANNOTATION,
    names.IGNORED_FAILURE_COUNT_ANNOTATION,
    names.RESTART_COUNT_ANNOTATION,
    names.FORMER_ATTEMPTS_ANNOTATION,
    names.NODE_RANK_ANNOTATION,
)
_WORKLOAD_CONDITION = ("type", "status", "reason", "message")
_WORKLOAD_CONDITION_TYPES = ("QuotaReserved", "Admitted", "Evicted")
_CHECK = ("name", "state", "message")
_CONTAINER_STATES = {
    "waiting": ("reason", "message"),
    "running": ("startedAt",),
    "terminated": ("exitCode", "reason", "message", "startedAt", "finishedAt"),
}
_TIMES = {"startedAt", "finishedAt", "startTime", "lastTransitionTime", "creationTimestamp", "deletionTimestamp"}
_NUMBERS = {"exitCode", "generation", "ready"}


def trim_task(body: Mapping[str, Any], inherited_prefixes: Sequence[str] = ()) -> Object:
    """Return the cached fields of a task; of its annotations those that its pods get as well."""
    labels = _to_object(body["metadata"].get("labels"))
    if _count_characters(labels) > MAX_LABELS_CHARACTERS:
        labels = {}
    spec = _to_object(body["spec"])
    _to_object(spec.get("runPolicy"))
    task = _trim(body, dict(labels), spec)
    if inherited_prefixes:
        annotations = select_inherited(_to_object(body["metadata"].get("annotations")), inherited_prefixes)
        if _count_characters(annotations) <= MAX_ANNOTATIONS_CHARACTERS:
            task["metadata"]["annotations"] = annotations
    if body.get("status") and body["status"] != UNOBSERVED_STATUS:
        task["status"] = _drop_large_arguments(_to_object(body["status"]))
    return task


def _drop_large_arguments(status: Object) -> Object:
    match status:
        case {"training": {"results": {"arguments": arguments}}} if len(to_json(arguments)) > MAX_ARGUMENTS_BYTES:
            training = status["training"]
            return {**status, "training": {**training, "results": {**training["results"], "arguments": {}}}}
    return status


def trim_job(body: Mapping[str, Any]) -> Object:
    """Return the cached fields of a Job."""
    spec, status = _to_object(body["spec"]), _to_object(body.get("status"))
    job = _trim_child(body, {field: spec[field] for field in _JOB_SPEC if field in spec})
    conditions = [_select(condition, *_JOB_CONDITION) for condition in _to_objects(status.get("conditions"))]
    if any("lastTransitionTime" not in c for c in conditions if c["type"] in TERMINAL_CONDITIONS):
        raise KeyError("lastTransitionTime")
    job["metadata"]["annotations"] = _select_annotations(body, (names.SUSPENDED_ANNOTATION,))
    # Of a Job that runs in another cluster there are no pods to see; of others the count changes in vain.
    counts = ("ready",) if spec.get("managedBy") else ()
    job["status"] = {**_select(status, "startTime", *counts), "conditions": conditions}
    return job


def trim_jobset(body: Mapping[str, Any]) -> Object:
    """Return the cached fields of a JobSet as those of a Job: its conditions by a Job's names, and since when it is active.

    That is unknown for one that was created suspended, as in a queue, until a condition says when it was resumed:
    MultiKueue resumes it before it copies the status of the JobSet in the other cluster.
    """
    conditions = {c.get("type"): c for c in _to_objects(_to_object(body.get("status")).get("conditions"))}
    terminal = [{**conditions[own], "type": jobs} for own, jobs in _JOBSET_CONDITIONS.items() if own in conditions]
    started, spec = None, _to_object(body["spec"])
    if not spec.get("suspend"):
        suspended = conditions.get("Suspended")
        if suspended is None:
            is_queued = names.QUEUE_LABEL in _to_object(body["metadata"].get("labels")) or spec.get("managedBy")
            started = None if is_queued else body["metadata"]["creationTimestamp"]
        elif suspended.get("status") == "False":
            started = suspended["lastTransitionTime"]
    jobs = _to_objects(_to_object(body.get("status")).get("replicatedJobsStatus"))
    ready = sum(_to_number(job.get("ready") or 0) for job in jobs)
    return trim_job({**body, "status": {"conditions": terminal, "startTime": started, "ready": ready}})


def trim_kueue_workload(body: Mapping[str, Any]) -> Object:
    """Return the cached fields of Kueue's Workload of a Job, with the labels of the task from those of its pods."""
    spec, status = _to_object(body["spec"]), _to_object(body.get("status"))
    trimmed = {"queueName": _to_optional_text(spec.get("queueName")) or "", "active": spec.get("active") is not False}
    workload = _trim_child({**body, "metadata": {**body["metadata"], "labels": get_pod_labels(body)}}, trimmed)
    workload["metadata"]["annotations"] = _select_annotations(body, (names.SUSPENDED_ANNOTATION,))
    workload["status"] = {
        "conditions": [
            _select(condition, *_WORKLOAD_CONDITION)
            for condition in _to_objects(status.get("conditions"))
            if condition.get("type") in _WORKLOAD_CONDITION_TYPES
        ],
        "admissionChecks": [_select(check, *_CHECK) for check in _to_objects(status.get("admissionChecks"))],
    }
    return workload


def get_pod_labels(workload: Mapping[str, Any]) -> Object:
    """Return the labels that the pods of Kueue's Workload get; {} when it has no pods."""
    for pod_set in _to_objects(_to_object(workload["spec"]).get("podSets")):
        return _to_object(_to_object(_to_object(pod_set.get("template")).get("metadata")).get("labels"))
    return {}


def trim_workload(body: Mapping[str, Any]) -> Object:
    """Return the cached fields of a Job or JobSet."""
    return trim_jobset(body) if body.get("kind") == names.JOBSET_KIND else trim_job(body)


def trim_pod(body: Mapping[str, Any]) -> Object:
    """Return the cached fields of a pod."""
    _check_lengths(nodeName=_to_optional_text(body["spec"].get("nodeName")) or "")
    containers = {container["name"]: container for container in _to_objects(body["spec"]["containers"])}
    container = containers.get(names.TRAINER_CONTAINER, {})  # an injected sidecar may come first
    limits = _to_object(_to_object(container.get("resources")).get("limits"))
    pod = _trim_child(
        body,
        {
            "nodeName": _to_optional_text(body["spec"].get("nodeName")),
            "image": _to_optional_text(container.get("image")),
            "memoryLimit": _to_optional_text(limits.get("memory")),
            "storageLimit": _to_optional_text(limits.get("ephemeral-storage")),
        },
    )
    pod["metadata"]["annotations"] = _select_annotations(body, _POD_ANNOTATIONS)
    status = _to_object(body.get("status"))
    pod["status"] = {
        **_select(status, *_POD_STATUS),
        "conditions": [
            _select(condition, *_POD_CONDITION)
            for condition in _to_objects(status.get("conditions"))
            if condition.get("type") in _POD_CONDITION_TYPES
        ],
    }
    statuses = _to_objects(status.get("containerStatuses"))
    if waiting := _find_waiting(_to_objects(status.get("initContainerStatuses"))):
        pod["status"]["waitingInitContainer"] = waiting
    trainer = get_container_status({"containerStatuses": statuses})
    state = _to_object(trainer.get("state"))
    if state:
        trimmed = {
            name: _select(_to_object(state[name]), *fields)
            for name, fields in _CONTAINER_STATES.items()
            if state.get(name)
        }
        pod["status"]["containerStatuses"] = [{"name": names.TRAINER_CONTAINER, "state": trimmed}]
        if "terminated" in trimmed:  # before, they are of no interest
            pod["status"]["sidecars"] = [
                _to_text(item["name"])[:_MAX_NAME_CHARACTERS] for item in statuses if not _has_ended(item)
            ]
    return pod


def trim_kube_event(body: Mapping[str, Any]) -> KubeEvent:
    """Return the cached fields of an Event; the two Event APIs name the same fields differently."""
    series = _to_object(body.get("series"))
    observed = (
        series.get("lastObservedTime")
        or body.get("lastTimestamp")
        or body.get("deprecatedLastTimestamp")
        or body.get("eventTime")
        or body["metadata"]["creationTimestamp"]
    )
    count = series.get("count") or body.get("count") or body.get("deprecatedCount") or 1
    message = _to_text(body.get("message") or body.get("note") or "")[:_MAX_EVENT_CHARACTERS]
    _check_lengths(uid=get_regarding_uid(body))
    return KubeEvent(
        message=message,
        count=_to_number(count),
        time=parse_time(observed),
        reason=_to_text(body.get("reason") or "")[:_MAX_NAME_CHARACTERS],
    )


def _find_waiting(containers: list[Object]) -> Object | None:
    """Return name, reason and message of the first container that waits, and not for one before it."""
    for container in containers:
        waiting = _to_object(_to_object(container.get("state")).get("waiting"))
        if waiting and waiting.get("reason") != "PodInitializing":
            return _select(container, "name") | _select(waiting, "reason", "message")
    return None


def _has_ended(container: Mapping[str, Any]) -> bool:
    return bool(_to_object(container.get("state")).get("terminated"))


def _trim_child(body: Mapping[str, Any], spec: Object) -> Object:
    """Return a Job or pod with the labels and the controller that connect it to its task."""
    metadata = body["metadata"]
    found = _to_object(metadata.get("labels"))
    labels = {label: _to_text(found[label]) for label in _CHILD_LABELS if label in found}
    _check_lengths(**labels)  # nothing validates those of the pods of a Workload
    child = _trim(body, labels, spec)
    owners = [owner for owner in _to_objects(metadata.get("ownerReferences")) if owner.get("controller")]
    for owner in owners:
        _check_lengths(uid=_to_text(owner["uid"]))
    child["metadata"]["ownerReferences"] = [{"uid": owner["uid"], "controller": True} for owner in owners]
    return child


def _select_annotations(body: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, str]:
    annotations = _to_object(body["metadata"].get("annotations"))
    return {name: _to_text(annotations[name])[:_MAX_MARK_CHARACTERS] for name in wanted if name in annotations}


def _trim(body: Mapping[str, Any], labels: Mapping[str, str], spec: Object) -> Object:
    metadata = _select(body["metadata"], *_METADATA)
    missing = [field for field in _IDENTITY if field not in metadata]
    if missing:
        raise KeyError(*missing)
    int(metadata["resourceVersion"])
    _check_lengths(**{field: metadata[field] for field in ("name", "namespace", "uid")})
    return {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": {**metadata, "labels": labels},
        "spec": spec,
    }


def _count_characters(entries: Mapping[Any, Any]) -> int:
    return sum(len(_to_text(key)) + len(_to_text(value)) for key, value in entries.items())


def _select(item: Mapping[str, Any], *fields: str) -> Object:
    """Return the fields that `item` has, checked to be times, numbers or else text; text is cut."""
    selected = {}
    for field in fields:
        value = item.get(field)
        if value is None:
            continue
        if field in _TIMES:
            parse_time(value)
        elif field in _NUMBERS:
            _to_number(value)
        else:
            value = _to_text(value)[:_MAX_MESSAGE_CHARACTERS]
        selected[field] = value
    return selected


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value


def _check_lengths(**identifiers: str) -> None:
    """Raise ValueError for an identifier longer than any of Kubernetes: a status that names it would be invalid."""
    for field, value in identifiers.items():
        if len(value) > _MAX_LENGTHS.get(field, 253):
            raise ValueError(f"{field} has {len(value)} characters")


def _to_optional_text(value: Any) -> str | None:
    return None if value is None else _to_text(value)[:_MAX_MESSAGE_CHARACTERS]


def _to_number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} instead of a number")
    return value


def _to_object(value: Any) -> Object:
    """Return an object, {} for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value


def _to_objects(value: Any) -> list[Object]:
    """Return a list of objects, [] for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return [_to_object(item) for item in value]
