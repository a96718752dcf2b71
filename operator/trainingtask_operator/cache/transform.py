"""Objects as the API server sends them -> what a reconcile reads of them. Pure.

What is kept is small and has the types that a reconcile relies on: everything else is refused here, with one of
`malformed.MALFORMED`.
"""

from collections.abc import Mapping
from typing import Any

from trainingtask_api import names
from trainingtask_operator.controller.attempts import container_status, parse_time
from trainingtask_operator.controller.diagnosis import Note

Object = dict[str, Any]

# A task with more labels than this, keys and values together, is kept and recorded without any.
LABELS_CHARACTERS = 4096
_MESSAGE_CHARACTERS = 4096  # as many bytes as the kubelet reads of a termination message

_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
_METADATA = (*_IDENTITY, "generation", "deletionTimestamp")
_POD_CONDITIONS = ("DisruptionTarget", "PodScheduled")
_STATES = {
    "waiting": ("reason", "message"),
    "running": ("startedAt",),
    "terminated": ("exitCode", "reason", "message", "startedAt", "finishedAt"),
}
_TIMES = {"startedAt", "finishedAt", "startTime", "lastTransitionTime", "creationTimestamp", "deletionTimestamp"}
_NUMBERS = {"exitCode", "generation"}


def kept_task(body: Mapping[str, Any]) -> Object:
    """Return what a reconcile reads of a task."""
    labels = _mapping(body["metadata"].get("labels"))
    if sum(len(_text(key)) + len(_text(value)) for key, value in labels.items()) > LABELS_CHARACTERS:
        labels = {}
    spec = _mapping(body["spec"])
    _mapping(spec.get("runPolicy"))
    task = _kept(body, dict(labels), spec)
    if body.get("status"):
        task["status"] = _mapping(body["status"])
    return task


def kept_job(body: Mapping[str, Any]) -> Object:
    """Return what a reconcile reads of a Job."""
    spec, status = _mapping(body["spec"]), _mapping(body.get("status"))
    job = _child(body, {field: spec[field] for field in ("suspend", "ttlSecondsAfterFinished") if field in spec})
    fields = ("type", "status", "reason", "message", "lastTransitionTime")
    conditions = [_fields(condition, *fields) for condition in _items(status.get("conditions"))]
    if any("lastTransitionTime" not in c for c in conditions if c["type"] in ("Complete", "Failed")):
        raise KeyError("lastTransitionTime")
    job["status"] = {**_fields(status, "startTime"), "conditions": conditions}
    return job


def kept_pod(body: Mapping[str, Any]) -> Object:
    """Return what a reconcile reads of a pod."""
    containers = {container["name"]: container for container in _items(body["spec"]["containers"])}
    container = containers.get(names.TRAINER_CONTAINER, {})  # an injected sidecar may come first
    limits = _mapping(_mapping(container.get("resources")).get("limits"))
    pod = _child(
        body,
        {
            "nodeName": _optional_text(body["spec"].get("nodeName")),
            "image": _optional_text(container.get("image")),
            "memoryLimit": _optional_text(limits.get("memory")),
            "storageLimit": _optional_text(limits.get("ephemeral-storage")),
        },
    )
    annotations = _mapping(body["metadata"].get("annotations"))
    counts = (names.FAILURE_COUNT_ANNOTATION, names.IGNORED_FAILURE_COUNT_ANNOTATION)
    pod["metadata"]["annotations"] = {name: _text(annotations[name]) for name in counts if name in annotations}
    status = _mapping(body.get("status"))
    pod["status"] = {
        **_fields(status, "phase", "reason", "message"),
        "conditions": [
            _fields(condition, "type", "status", "reason", "message")
            for condition in _items(status.get("conditions"))
            if condition.get("type") in _POD_CONDITIONS
        ],
    }
    trainer = container_status({"containerStatuses": _items(status.get("containerStatuses"))})
    state = _mapping(trainer.get("state"))
    if state:
        kept = {name: _fields(_mapping(state[name]), *fields) for name, fields in _STATES.items() if state.get(name)}
        pod["status"]["containerStatuses"] = [{"name": names.TRAINER_CONTAINER, "state": kept}]
    return pod


def kept_note(body: Mapping[str, Any]) -> Note:
    """Return what a reconcile reads of an Event; its two groups name the same fields differently."""
    series = _mapping(body.get("series"))
    seen = (
        series.get("lastObservedTime")
        or body.get("lastTimestamp")
        or body.get("deprecatedLastTimestamp")
        or body.get("eventTime")
        or body["metadata"]["creationTimestamp"]
    )
    count = series.get("count") or body.get("count") or body.get("deprecatedCount") or 1
    message = _text(body.get("message") or body.get("note") or "")[:_MESSAGE_CHARACTERS]
    return Note(message=message, count=_number(count), when=parse_time(seen))


def _child(body: Mapping[str, Any], spec: Object) -> Object:
    """Return a Job or pod with the labels and the owner that say whose it is."""
    metadata = body["metadata"]
    found = _mapping(metadata.get("labels"))
    labels = {label: _text(found[label]) for label in (names.TASK_NAME_LABEL, names.TASK_UID_LABEL) if label in found}
    child = _kept(body, labels, spec)
    child["metadata"]["ownerReferences"] = [
        {"uid": _text(owner["uid"]), "controller": True}
        for owner in _items(metadata.get("ownerReferences"))
        if owner.get("controller")
    ]
    return child


def _kept(body: Mapping[str, Any], labels: Mapping[str, str], spec: Object) -> Object:
    metadata = _fields(body["metadata"], *_METADATA)
    missing = [field for field in _IDENTITY if field not in metadata]
    if missing:
        raise KeyError(*missing)
    int(metadata["resourceVersion"])
    return {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": {**metadata, "labels": labels},
        "spec": spec,
    }


def _fields(item: Mapping[str, Any], *fields: str) -> Object:
    """Return those of the fields that are there: times, numbers, else text."""
    kept = {}
    for field in fields:
        value = item.get(field)
        if value is None:
            continue
        if field in _TIMES:
            parse_time(value)
        elif field in _NUMBERS:
            _number(value)
        else:
            value = _text(value)[:_MESSAGE_CHARACTERS]
        kept[field] = value
    return kept


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} instead of a number")
    return value


def _mapping(value: Any) -> Object:
    """Return an object, {} in the place of null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value


def _items(value: Any) -> list[Object]:
    """Return a list of objects, [] in the place of null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return [_mapping(item) for item in value]
