"""The pods of a task -> its attempts: when each ran, where, and why it ended, in the user's words. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from trainingtask_api import ExitCode, TrainingReport, names

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
    reported: int  # what the trainer takes for its number: the pod's own count
    pod: str
    node: str | None
    image: str | None
    phase: str  # the pod's: Pending, Running, Succeeded or Failed
    created: datetime
    started: datetime | None
    finished: datetime | None
    cause: Cause | None  # of a failed pod, or of one on a node that is lost
    counted: bool  # failed for good: what comes after it is another attempt
    trouble: Cause | None  # of a pod that cannot start
    report: TrainingReport | None  # the trainer's termination message
    users_mistake: bool


def parse_time(text: str) -> datetime:
    """Return an API server's timestamp as an aware datetime."""
    return datetime.fromisoformat(text)


def attempts_of(pods: Iterable[Object]) -> list[Attempt]:
    """Return the attempts in order; of two pods of one attempt (suspended and resumed) the later one stands.

    Kubernetes forgets its count of failures when a Job is suspended, so a pod that follows a failed one is the next
    attempt even if its own count says otherwise.
    """
    found: list[Attempt] = []
    for attempt in sorted((_attempt(pod) for pod in pods), key=lambda attempt: attempt.created):
        last = found[-1] if found else None
        number = max(attempt.number, last.number + (1 if last.counted else 0)) if last else attempt.number
        if last and last.number == number:
            found.pop()
        found.append(replace(attempt, number=number))
    return found


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
    disruption = _disruption(status)
    leaving = "deletionTimestamp" in metadata
    counts = (names.FAILURE_COUNT_ANNOTATION, names.IGNORED_FAILURE_COUNT_ANNOTATION)
    number = 1 + sum(_count(annotations, name) for name in counts)
    # On a node that is lost nobody is left to say that the pod has ended.
    cause = disruption if leaving else None
    if phase == "Failed":
        cause = _cause(pod, ended, report, disruption)
    return Attempt(
        number=number,
        reported=number,
        pod=metadata["name"],
        node=pod.get("spec", {}).get("nodeName"),
        image=pod.get("spec", {}).get("image"),
        phase=phase,
        created=parse_time(metadata["creationTimestamp"]),
        started=parse_time(started) if started else None,
        finished=parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
        cause=cause,
        # A pod that the Job controller deletes to suspend the Job is no failure.
        counted=phase == "Failed" and (not leaving or disruption is not None),
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


def _report(message: str) -> TrainingReport | None:
    """Return the trainer's termination message; a killed trainer leaves the tail of its log instead."""
    try:
        return TrainingReport.model_validate_json(message)
    except ValidationError:
        return None


def _disruption(status: Object) -> Cause | None:
    """Return why Kubernetes takes the pod off its node, None when it does not."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            word = _DISRUPTIONS.get(condition.get("reason", ""), "Evicted")
            return Cause(word, f"The pod was taken off its node: {condition.get('message') or condition.get('reason')}")
    if status.get("reason") == "Evicted":
        return Cause("Evicted", f"The node evicted the pod: {status.get('message', '')}")
    return None


def _cause(pod: Object, ended: Object, report: TrainingReport | None, disruption: Cause | None) -> Cause:
    """Return why a failed pod failed; the trainer's own words come first, then Kubernetes' evidence."""
    status = pod["status"]
    if report and report.failure and ended.get("exitCode") != ExitCode.INTERRUPTED:
        return Cause(report.failure.reason, report.failure.message)
    if ended.get("reason") == "OOMKilled":
        limit = pod.get("spec", {}).get("memoryLimit") or "its limit"
        return Cause(
            "OOMKilled",
            f"The trainer needed more memory than {limit}: raise spec.resources.memory, or lower training.batchSize or preprocessor.maxLength.",
        )
    if disruption:
        return disruption
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
