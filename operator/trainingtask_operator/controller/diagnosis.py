"""Causes of failed pods, from what Kubernetes and the trainer report. Pure."""

import re
from dataclasses import dataclass

from trainingtask_api import ExitCode, Reason, TrainingReport
from trainingtask_operator.kube_objects import Object

# Reason of the DisruptionTarget condition -> reason in the task's status.
_DISRUPTION_REASONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
# The kubelet's messages for a pod over its own disk limit. Such a pod is no DisruptionTarget, so its failure counts.
_STORAGE_EXCEEDED = re.compile(r"exceed(s|ed) (its local ephemeral storage limit|the total limit|the limit)")
_LOG_TAIL_LINES = 3
_MIB = 1 << 20


@dataclass(frozen=True)
class Cause:
    """A stable CamelCase reason, and a message for the user."""

    reason: str
    message: str


def find_disruption(status: Object) -> Cause | None:
    """Return why Kubernetes evicts the pod with this status, None when it does not."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = _DISRUPTION_REASONS.get(condition.get("reason", ""), Reason.EVICTED)
            details = condition.get("message") or condition.get("reason")
            return Cause(reason, f"The pod was taken off its node: {details}")
    if status.get("reason") == "Evicted":
        return Cause(Reason.EVICTED, f"The node evicted the pod: {status.get('message', '')}")
    return None


def explain_failure(
    pod: Object, terminated: Object, termination_report: TrainingReport | None, report: TrainingReport | None
) -> Cause:
    """Return why a pod failed: the trainer's own failure comes first, then what Kubernetes shows.

    Parameters
    ----------
    pod
        The pod, with its limits as `spec.memoryLimit` and `spec.storageLimit`.
    terminated
        The ``terminated`` state of its container, {} when there was none.
    termination_report
        The container's termination message.
    report
        What the trainer of this attempt reported before.
    """
    status = pod["status"]
    disruption = find_disruption(status)
    if termination_report and termination_report.failure and terminated.get("exitCode") != ExitCode.INTERRUPTED:
        return Cause(termination_report.failure.reason, termination_report.failure.message)
    if terminated.get("reason") == "OOMKilled":
        return _explain_out_of_memory(pod.get("spec", {}).get("memoryLimit"), report)
    if disruption and status.get("reason") == "Evicted" and _STORAGE_EXCEEDED.search(status.get("message", "")):
        return Cause(
            Reason.STORAGE_EXCEEDED,
            f"The trainer wrote more to the node's disk than its limit of {pod.get('spec', {}).get('storageLimit')}:"
            " raise spec.resources.storage, or keep checkpoints, data and output in volume claims."
            f" {status['message'].strip()}",
        )
    if disruption:
        return disruption
    if terminated.get("exitCode") == ExitCode.INTERRUPTED:
        return Cause(Reason.INTERRUPTED, "The trainer was told to stop (SIGTERM).")
    if terminated:
        tail = str(terminated.get("message", "")).strip().splitlines()[-_LOG_TAIL_LINES:]
        last = f" Last it said: {' | '.join(tail)}" if tail and not termination_report else ""
        crashed = f"The trainer ended with exit code {terminated.get('exitCode')}.{last}"[:1600]
        return Cause(
            Reason.TRAINER_CRASHED,
            f"{crashed} More is in its log: kubectl logs {pod['metadata']['name']}, later log_tail in the history.",
        )
    details = ": ".join(str(status[field]) for field in ("reason", "message") if status.get(field))
    return Cause(
        Reason.POD_FAILED,
        f"The pod failed before the trainer started; if it does so again, ask the cluster's admin. {details}".strip(),
    )


def _explain_out_of_memory(limit: str | None, report: TrainingReport | None) -> Cause:
    memory = "it had not reported yet how much it held"
    if report is not None and report.peak_memory_bytes is not None and report.report_time is not None:
        peak = report.peak_memory_bytes // _MIB
        memory = f"at {report.report_time:%H:%M:%S} UTC it had reported a peak of {peak} MiB"
    return Cause(
        Reason.OOM_KILLED,
        f"The trainer was killed as it passed its memory limit of {limit or 'its node'}; {memory}:"
        " raise spec.resources.memory, or lower training.batchSize or preprocessor.maxLength.",
    )
