"""The pods of a task -> its attempts: when each ran, where, and why it ended, in the user's words. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trainingtask_api import ExitCode, names

Object = Mapping[str, Any]

# Why Kubernetes took a pod away -> our word for it.
_DISRUPTIONS = {
    "PreemptionByScheduler": "Preempted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
}
_IMAGE_TROUBLE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}


@dataclass(frozen=True)
class Cause:
    """One stable CamelCase word, and one sentence for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class Attempt:
    """One pod of a task's Job."""

    number: int
    pod: str
    node: str | None
    image: str | None
    phase: str  # the pod's: Pending, Running, Succeeded or Failed
    created: datetime
    started: datetime | None
    finished: datetime | None
    cause: Cause | None  # of a failed pod
    trouble: Cause | None  # of a pod that cannot start
    report: Mapping[str, Any]  # the trainer's termination message (a TrainingReport as JSON), {} without one
    users_mistake: bool


def parse_time(text: str) -> datetime:
    """Return an API server's timestamp as an aware datetime."""
    return datetime.fromisoformat(text)


def attempts_of(pods: Iterable[Object]) -> list[Attempt]:
    """Return the attempts in order; of two pods of one attempt (suspended and resumed) the later one stands."""
    latest: dict[int, Attempt] = {}
    for attempt in sorted((_attempt(pod) for pod in pods), key=lambda attempt: attempt.created):
        latest[attempt.number] = attempt
    return [latest[number] for number in sorted(latest)]


def _attempt(pod: Object) -> Attempt:
    metadata, status = pod["metadata"], pod.get("status", {})
    annotations = metadata.get("annotations") or {}
    container = _container_status(status)
    state = container.get("state", {})
    ended: Object = state.get("terminated") or {}
    running: Object = state.get("running") or {}
    report = _report(ended.get("message", ""))
    started = ended.get("startedAt") or running.get("startedAt")
    phase = status.get("phase", "Pending")
    exit_code = ended.get("exitCode")
    return Attempt(
        number=1
        + _count(annotations, names.FAILURE_COUNT_ANNOTATION)
        + _count(annotations, names.IGNORED_FAILURE_COUNT_ANNOTATION),
        pod=metadata["name"],
        node=pod.get("spec", {}).get("nodeName"),
        image=pod.get("spec", {}).get("image"),
        phase=phase,
        created=parse_time(metadata["creationTimestamp"]),
        started=parse_time(started) if started else None,
        finished=parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
        cause=_cause(pod, ended, report) if phase == "Failed" else None,
        trouble=_trouble(status, container) if phase == "Pending" else None,
        report=report,
        users_mistake=exit_code == ExitCode.USER_ERROR,
    )


def _count(annotations: Object, name: str) -> int:
    value = str(annotations.get(name, "0"))
    return int(value) if value.isdigit() else 0


def _container_status(status: Object) -> Object:
    statuses: list[Object] = status.get("containerStatuses") or []
    return next((item for item in statuses if item.get("name") == names.TRAINER_CONTAINER), {})


def _report(message: str) -> Mapping[str, Any]:
    """Return the trainer's termination message; a killed trainer leaves the tail of its log instead."""
    try:
        report = json.loads(message)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _cause(pod: Object, ended: Object, report: Mapping[str, Any]) -> Cause:
    """Return why a failed pod failed; the trainer's own words come first, then Kubernetes' evidence."""
    status = pod["status"]
    failure = report.get("failure")
    if isinstance(failure, dict) and failure.get("reason") and ended.get("exitCode") != ExitCode.INTERRUPTED:
        return Cause(str(failure["reason"]), str(failure.get("message", "")))
    if ended.get("reason") == "OOMKilled":
        limit = pod.get("spec", {}).get("memoryLimit") or "its limit"
        return Cause(
            "OOMKilled",
            f"The trainer needed more memory than {limit}: raise spec.resources.memory, or lower training.batchSize or preprocessor.maxLength.",
        )
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            word = _DISRUPTIONS.get(condition.get("reason", ""), "Evicted")
            return Cause(word, f"The pod was taken off its node: {condition.get('message') or condition.get('reason')}")
    if status.get("reason") == "Evicted":
        return Cause("Evicted", f"The node evicted the pod: {status.get('message', '')}")
    if ended.get("exitCode") == ExitCode.INTERRUPTED:
        return Cause("Interrupted", "The trainer was told to stop (SIGTERM).")
    if ended:
        tail = str(ended.get("message", "")).strip().splitlines()[-3:]
        said = f" Last it said: {' | '.join(tail)}" if tail and not report else ""
        return Cause("TrainerCrashed", f"The trainer ended with exit code {ended.get('exitCode')}.{said}"[:1800])
    return Cause(
        status.get("reason") or "PodFailed", status.get("message") or "The pod failed before the trainer started."
    )


def _trouble(status: Object, container: Object) -> Cause | None:
    """Return why a pending pod does not start, None while it is simply on its way."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Cause("Unschedulable", f"No node can take the pod: {condition.get('message', '')}")
    waiting: Object = container.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_TROUBLE:
        return Cause("ImagePullFailed", f"The trainer image cannot be pulled: {message}")
    if reason == "CreateContainerConfigError":
        return Cause(
            "SecretNotFound" if "secret" in message else "ContainerConfigError",
            f"The container cannot be created: {message}",
        )
    if reason in ("CreateContainerError", "RunContainerError"):
        return Cause(reason, f"The container cannot be started: {message}")
    return None
