"""What Kubernetes and the trainer say of a pod -> one stable word and one sentence for a person. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trainingtask_api import ExitCode, Reason, TrainingReport

Object = Mapping[str, Any]

# Why Kubernetes took a pod away -> our word for it.
_DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
_IMAGE_TROUBLE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CREATION_TROUBLE = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
# How the kubelet words it that the pod itself took too much of the disk. Such a pod is no DisruptionTarget, so it counts.
_STORAGE_EXCEEDED = re.compile(r"exceed(s|ed) (its local ephemeral storage limit|the total limit|the limit)")
_MISSING = re.compile(r"(persistentvolumeclaim|configmap|secret) \"([^\"]+)\" not found", re.IGNORECASE)
_TAIL_LINES = 3
_MIB = 1 << 20


@dataclass(frozen=True)
class Cause:
    """One stable CamelCase word, and one sentence for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class Note:
    """The newest Event about a pod or a Job, as far as it matters: what cannot be read from the object itself."""

    message: str
    count: int
    when: datetime


def disruption(status: Object) -> Cause | None:
    """Return why Kubernetes takes the pod with this status off its node, None when it does not."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            word = _DISRUPTIONS.get(condition.get("reason", ""), Reason.EVICTED)
            return Cause(word, f"The pod was taken off its node: {condition.get('message') or condition.get('reason')}")
    if status.get("reason") == "Evicted":
        return Cause(Reason.EVICTED, f"The node evicted the pod: {status.get('message', '')}")
    return None


def why_failed(pod: Object, ended: Object, last_words: TrainingReport | None, report: TrainingReport | None) -> Cause:
    """Return why a failed pod failed; the trainer's own words come first, then Kubernetes' evidence.

    Parameters
    ----------
    pod
        The pod, with its limits as `spec.memoryLimit` and `spec.storageLimit`.
    ended
        The ``terminated`` state of its container, {} when there was none.
    last_words
        The container's termination message.
    report
        What the trainer of this attempt reported before.
    """
    status = pod["status"]
    taken = disruption(status)
    if last_words and last_words.failure and ended.get("exitCode") != ExitCode.INTERRUPTED:
        return Cause(last_words.failure.reason, last_words.failure.message)
    if ended.get("reason") == "OOMKilled":
        return _out_of_memory(pod.get("spec", {}).get("memoryLimit"), report)
    if taken and status.get("reason") == "Evicted" and _STORAGE_EXCEEDED.search(status.get("message", "")):
        return Cause(
            Reason.STORAGE_EXCEEDED,
            f"The trainer wrote more to the node's disk than its limit of {pod.get('spec', {}).get('storageLimit')}:"
            " raise spec.resources.storage, or keep checkpoints, data and output in volume claims."
            f" {status['message'].strip()}",
        )
    if taken:
        return taken
    if ended.get("exitCode") == ExitCode.INTERRUPTED:
        return Cause(Reason.INTERRUPTED, "The trainer was told to stop (SIGTERM).")
    if ended:
        tail = str(ended.get("message", "")).strip().splitlines()[-_TAIL_LINES:]
        said = f" Last it said: {' | '.join(tail)}" if tail and not last_words else ""
        crashed = f"The trainer ended with exit code {ended.get('exitCode')}.{said}"[:1600]
        return Cause(
            Reason.TRAINER_CRASHED,
            f"{crashed} More is in its log: kubectl logs {pod['metadata']['name']}, later log_tail in the history.",
        )
    said = ": ".join(str(status[field]) for field in ("reason", "message") if status.get(field))
    return Cause(
        Reason.POD_FAILED,
        f"The pod failed before the trainer started; if it does so again, ask the cluster's admin. {said}".strip(),
    )


def _out_of_memory(limit: str | None, report: TrainingReport | None) -> Cause:
    held = "it had not reported yet how much it held"
    if report is not None and report.peak_memory_bytes is not None and report.report_time is not None:
        held = f"at {report.report_time:%H:%M:%S} UTC it had reported a peak of {report.peak_memory_bytes // _MIB} MiB"
    return Cause(
        Reason.OOM_KILLED,
        f"The trainer was killed as it passed its memory limit of {limit or 'its node'}; {held}:"
        " raise spec.resources.memory, or lower training.batchSize or preprocessor.maxLength.",
    )


def why_waiting(status: Object, container: Object, unmounted: Note | None) -> Cause | None:
    """Return why a pending pod does not start, None while it is simply on its way.

    Parameters
    ----------
    status
        The pod's.
    container
        The status of its container, {} when there is none.
    unmounted
        The kubelet's Event about a volume that it could not mount.
    """
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unschedulable(str(condition.get("message", "")))
    waiting: Object = container.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_TROUBLE:
        return Cause(
            Reason.IMAGE_PULL_FAILED,
            f"The trainer image cannot be pulled: correct spec.image, or ask the cluster's admin. {message}",
        )
    if reason in _CREATION_TROUBLE:
        if "secret" in message.lower():
            return Cause(
                Reason.SECRET_NOT_FOUND,
                f"The container cannot be created, {message}: create the Secret, with every key that spec.env names.",
            )
        return Cause(
            Reason.CONTAINER_NOT_CREATED,
            f"The container cannot be created ({reason}): correct spec.image in a new task, or ask the cluster's admin."
            f" {message}",
        )
    return None if unmounted is None else _unmounted(unmounted)


def _unschedulable(message: str) -> Cause:
    return _missing_volume(message) or Cause(
        Reason.UNSCHEDULABLE,
        f"No node can take the pod: {message} It starts by itself when one can; or ask for less in spec.resources.",
    )


def _unmounted(note: Note) -> Cause | None:
    missing = _missing_volume(note.message)
    # The kubelet fails for a moment now and then, while its caches fill; what it says twice is trouble.
    if missing is None and note.count > 1:
        return Cause(
            Reason.VOLUME_NOT_MOUNTED,
            f"A volume of the pod cannot be mounted: it is tried again; ask the cluster's admin. {note.message}",
        )
    return missing


def _missing_volume(message: str) -> Cause | None:
    found = _MISSING.search(message)
    if found is None:
        return None
    kind = {"persistentvolumeclaim": "PersistentVolumeClaim", "configmap": "ConfigMap", "secret": "Secret"}
    return Cause(
        Reason.VOLUME_NOT_FOUND,
        f"There is no {kind[found[1].lower()]} {found[2]!r} in the task's namespace: create it, and the task starts by"
        f" itself. ({message.strip()})",
    )


def why_no_pod(note: Note) -> Cause:
    """Return why the Job controller cannot create the pod, by its own Event."""
    if "exceeded quota" in note.message:
        return Cause(
            Reason.QUOTA_EXCEEDED,
            "The namespace's ResourceQuota leaves no room for the pod; it starts when there is, or ask for less in"
            f" spec.resources. {note.message}",
        )
    return Cause(
        Reason.POD_REFUSED,
        f"The pod cannot be created: correct what the message names, or ask the cluster's admin. {note.message}",
    )
