"""Causes of waiting and missing pods, from their status and from Events about them. Pure."""

import re

from trainingtask_api import Reason
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.kube_objects import KubeEvent, Object, get_container_status

_PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CREATION_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_INJECTED_REASONS = _PULL_REASONS | _CREATION_REASONS | {"CrashLoopBackOff"}
_MISSING_OBJECT = re.compile(r"(persistentvolumeclaim|configmap|secret) \"([^\"]+)\" not found", re.IGNORECASE)
_SANDBOX_ID = re.compile(r" \"?[0-9a-f]{64}\"?")  # of each try another one
# What the API server says when it creates no pod -> what that means. The first that matches counts.
_REFUSALS = (
    (
        re.compile(r"(usage|ratio) per (Container|Pod) is"),
        "The namespace's LimitRange does not allow what the pod asks for: change spec.resources in a new task as the"
        " message says, or ask the cluster's admin.",
    ),
    (
        re.compile(r"failed calling webhook|failed to call webhook"),
        "A webhook that the cluster asks about each pod does not answer: it is tried again; ask the cluster's admin.",
    ),
    (
        re.compile(r"denied (the )?request|violates PodSecurity"),
        "A policy of the cluster does not allow the pod: change in a new task what the message names, or ask the"
        " cluster's admin.",
    ),
)


def explain_waiting(status: Object, event: KubeEvent | None) -> Cause | None:
    """Return why a pending pod does not start, None when nothing keeps it from starting.

    Parameters
    ----------
    status
        The pod's.
    event
        The newest Event about why it does not start.
    """
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _explain_unschedulable(str(condition.get("message", "")))
    waiting: Object = get_container_status(status).get("state", {}).get("waiting") or {}
    return (
        _explain_waiting_container(waiting.get("reason", ""), waiting.get("message", ""))
        or _explain_injected_container(status.get("waitingInitContainer") or {})
        or (_explain_event(event) if event else None)
    )


def _explain_waiting_container(reason: str, message: str) -> Cause | None:
    if reason in _PULL_REASONS:
        return Cause(
            Reason.IMAGE_PULL_FAILED,
            f"An image of the pod cannot be pulled: correct spec.image, or ask the cluster's admin. {message}",
        )
    if reason not in _CREATION_REASONS:
        return None
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


def _explain_injected_container(container: Object) -> Cause | None:
    """Return why an init container keeps the trainer from starting: the project's pods have none of their own."""
    reason = container.get("reason", "")
    if reason not in _INJECTED_REASONS:
        return None
    return Cause(
        Reason.CONTAINER_NOT_CREATED,
        f"The container {container.get('name')!r}, injected into the pod, does not start ({reason}), and the trainer waits"
        f" for it: ask the cluster's admin. {container.get('message', '')}".strip(),
    )


def _explain_unschedulable(message: str) -> Cause:
    return _explain_missing_volume(message) or Cause(
        Reason.UNSCHEDULABLE,
        f"No node can take the pod: {message} It starts by itself when one can; or ask for less in spec.resources.",
    )


def _explain_event(event: KubeEvent) -> Cause | None:
    message = event.message
    if event.reason == "FailedCreatePodSandBox":
        return Cause(
            Reason.SANDBOX_NOT_CREATED,
            "The node cannot set up the pod's sandbox, such as its network: it is tried again; ask the cluster's admin."
            f" {_SANDBOX_ID.sub('', message)}",
        )
    if event.reason == "FailedAttachVolume":
        return _explain_unattached_volume(message)
    missing = _explain_missing_volume(message)
    # A single failure is usual while the kubelet's caches fill; a repeated one, or minutes without success, are not.
    if missing is None and (event.count > 1 or event.is_summary):
        return Cause(
            Reason.VOLUME_NOT_MOUNTED,
            f"A volume of the pod cannot be mounted: it is tried again; ask the cluster's admin. {message}",
        )
    return missing


def _explain_unattached_volume(message: str) -> Cause:
    step = "it is tried again; ask the cluster's admin."
    if message.startswith("Multi-Attach"):
        step = (
            "it is attached to another one. The task starts by itself when the pod that uses the volume there has ended;"
            " or use a volume claim with access mode ReadWriteMany."
        )
    return Cause(
        Reason.VOLUME_NOT_ATTACHED, f"A volume of the pod cannot be attached to the pod's node: {step} {message}"
    )


def _explain_missing_volume(message: str) -> Cause | None:
    found = _MISSING_OBJECT.search(message)
    if found is None:
        return None
    kind = {"persistentvolumeclaim": "PersistentVolumeClaim", "configmap": "ConfigMap", "secret": "Secret"}
    return Cause(
        Reason.VOLUME_NOT_FOUND,
        f"There is no {kind[found[1].lower()]} {found[2]!r} in the task's namespace: create it, and the task starts by"
        f" itself. ({message.strip()})",
    )


def explain_missing_pod(event: KubeEvent) -> Cause:
    """Return why the Job controller cannot create the pod, from its own Event."""
    if "exceeded quota" in event.message:
        return Cause(
            Reason.QUOTA_EXCEEDED,
            "The namespace's ResourceQuota leaves no room for the pod; it starts when there is, or ask for less in"
            f" spec.resources. {event.message}",
        )
    sentence = next(
        (sentence for pattern, sentence in _REFUSALS if pattern.search(event.message)),
        "The pod cannot be created: correct what the message names, or ask the cluster's admin.",
    )
    return Cause(Reason.POD_REFUSED, f"{sentence} {event.message}")
