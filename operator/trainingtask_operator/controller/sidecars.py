"""Containers beside the trainer's that keep its pod from ending after it. Pure.

A native sidecar (an init container that is restarted) is ended by the kubelet; any other container is not, and Kubernetes
waits for it. The end of the trainer's container is the end of the attempt, whatever else runs in its pod.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from trainingtask_api import Reason
from trainingtask_operator.controller.attempts import Attempt
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.kube_objects import Object

SIDECAR_TIMEOUT = timedelta(seconds=30)  # in which the other containers may end by themselves
_MAX_NAMES = 8


def compute_sidecar_time_left(attempt: Attempt, now: datetime) -> timedelta | None:
    """Return for how long the sidecars of an ended trainer may go on; None when none keeps its pod running."""
    if not attempt.sidecars or attempt.phase != "Running" or attempt.finish_time is None:
        return None
    return attempt.finish_time + SIDECAR_TIMEOUT - now


def has_completed(attempt: Attempt, now: datetime) -> bool:
    """Return whether the trainer's success ends its task before the Job is Complete: a sidecar goes on, or has failed."""
    time_left = compute_sidecar_time_left(attempt, now)
    return attempt.is_final or (attempt.has_succeeded and time_left is not None and time_left <= timedelta(0))


def find_pod_to_delete(attempt: Attempt, pods: Iterable[Object], now: datetime) -> Object | None:
    """Return the pod of a failed trainer whose sidecars go on: deleted, it counts as failed with the trainer's exit code."""
    time_left = compute_sidecar_time_left(attempt, now)
    if time_left is None or time_left > timedelta(0) or attempt.cause is None:
        return None
    pod = next((pod for pod in pods if pod["metadata"]["name"] == attempt.pod), None)
    return None if pod is None or "deletionTimestamp" in pod["metadata"] else pod


def explain_sidecars(attempt: Attempt) -> Cause:
    """Return why the attempt of an ended trainer goes on, and how that can be avoided."""
    names = ", ".join(repr(name) for name in attempt.sidecars[:_MAX_NAMES])
    return Cause(
        Reason.SIDECAR_RUNNING,
        f"The trainer has ended, but {names}, injected into its pod {attempt.pod}, has not: the pod is deleted"
        f" {SIDECAR_TIMEOUT.total_seconds():.0f} s after the trainer's end; to keep such containers out, set"
        ' trainer.podAnnotations of the Helm chart (sidecar.istio.io/inject: "false", or linkerd.io/inject: disabled).',
    )
