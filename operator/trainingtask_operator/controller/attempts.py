"""The attempts of a task, from its pods and the records in its status: when each ran, where, and why it ended. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import ValidationError

from trainingtask_api import AttemptRecord, ExitCode, Reason, TrainingReport, TrainingTaskStatus, names
from trainingtask_operator.controller.diagnosis import Cause, explain_failure, find_disruption
from trainingtask_operator.controller.waiting import explain_waiting
from trainingtask_operator.kube_objects import KubeEvent, Object, get_container_status, parse_time

MAX_ATTEMPT_RECORDS = 16  # as many as status.attempts may hold
# Of a Job's pod the failures of its index, of a JobSet's the restarts of the group and the attempts before the JobSet.
_COUNT_ANNOTATIONS = (
    names.FAILURE_COUNT_ANNOTATION,
    names.IGNORED_FAILURE_COUNT_ANNOTATION,
    names.RESTART_COUNT_ANNOTATION,
    names.FORMER_ATTEMPTS_ANNOTATION,
)
# Reasons of a trainer that was stopped with others, or lost them.
CONSEQUENCES = {Reason.PEER_LOST, Reason.PEER_UNRESPONSIVE, Reason.INTERRUPTED}


@dataclass(frozen=True)
class Attempt:
    """One pod of a task's Job, the pods of one start of its JobSet, or the record of either."""

    number: int
    reported_number: int  # in the trainer's reports: the pod's own count
    pod: str | None
    pod_uid: str | None  # None when only the record is left
    pod_exists: bool
    lacks_pods: bool  # a pod of it does not exist
    node: str | None
    nodes: str | None  # of all its pods, as text
    image: str | None
    phase: str  # the pod's: Pending, Running, Succeeded or Failed; Unknown when it is gone
    is_terminating: bool  # the pod is being deleted
    create_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    exit_code: int | None
    cause: Cause | None  # of a failed pod, or of one on a lost node
    counts_as_failure: bool  # a pod after it is another attempt
    waiting_cause: Cause | None  # of a pod that cannot start
    termination_report: TrainingReport | None  # the trainer's termination message
    sidecars: tuple[str, ...] = ()  # containers that have not ended, though the trainer has
    is_recorded: bool = False  # the status has its end

    @property
    def is_user_error(self) -> bool:
        """Return whether the trainer refused the task: it is not retried."""
        return self.exit_code == ExitCode.USER_ERROR

    @property
    def has_succeeded(self) -> bool:
        """Return whether the trainer, on each node, has ended with success."""
        return self.exit_code == ExitCode.SUCCESS and not (self.pod_exists and self.lacks_pods)

    @property
    def is_final(self) -> bool:
        """Return whether it succeeded, but in a pod that is gone, or that another container failed: Kubernetes would train again."""
        return self.has_succeeded and (not self.pod_exists or self.phase == "Failed")

    @property
    def has_begun(self) -> bool:
        """Return whether it ran, or failed before it could."""
        return self.start_time is not None or self.exit_code is not None or self.cause is not None


def build_attempts(
    pods: Iterable[Object],
    status: TrainingTaskStatus | None = None,
    kube_events: Mapping[str, KubeEvent] | None = None,
) -> list[Attempt]:
    """Return the attempts in order; of two pods of one attempt (suspended and resumed) the later one counts.

    A pod keeps the number that the status records for it. Kubernetes resets its count of failures when a Job is
    suspended, so a new pod after a failed one is the next attempt whatever its own count is.

    Parameters
    ----------
    pods
        The task's, in any order.
    status
        The task's, as it is stored, with the records of attempts and the trainer's latest report.
    kube_events
        Events about the pods, by the pod's uid.
    """
    records = (status and status.attempts) or []
    report = status.training if status else None
    numbers: dict[str | None, int] = {record.pod: record.number for record in records if record.pod}
    attempts = {record.number: build_from_record(record, report) for record in records}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        attempt = build_from_pod(pod, report, kube_events or {})
        number = numbers.get(attempt.pod) or max(
            [attempt.number, *(other.number + (1 if other.counts_as_failure else 0) for other in attempts.values())]
        )
        known = attempts.get(number)
        if known is not None and known.is_recorded and known.pod == attempt.pod and attempt.cause is not None:
            attempt = replace(attempt, is_recorded=True, counts_as_failure=True)  # also while its pod is deleted
        attempts[number] = replace(attempt, number=number)
    return fill_gaps(attempts, status)


def fill_gaps(attempts: dict[int, Attempt], status: TrainingTaskStatus | None = None) -> list[Attempt]:
    """Return the attempts by number, up to the first that is final.

    An earlier one without a pod has ended, though no operator observed its end.
    """
    if not attempts:
        return []
    report = status.training if status else None
    last = max(attempts)
    recorded = max((record.number for record in (status and status.attempts) or []), default=0)
    # An attempt that the status records has a row, and is not taken back.
    followed = {n: _take_reported_success(a, report) for n, a in attempts.items() if recorded <= n < last}
    attempts = attempts | followed
    filled = [attempts[min((n for n, attempt in followed.items() if attempt.is_final), default=last)]]
    while filled[0].number > 1 and len(filled) < MAX_ATTEMPT_RECORDS:
        number = filled[0].number - 1
        attempt = attempts.get(number) or build_from_record(AttemptRecord(number=number))
        if attempt.cause is None and (not attempt.pod_exists or attempt.phase == "Failed"):
            attempt = _close_unobserved(attempt, report, successor=filled[0])
        elif attempt.cause is not None:
            # Even of a pod deleted by hand: another attempt followed. On a lost node nobody noted when it ended.
            finish_time = attempt.finish_time or filled[0].create_time
            attempt = replace(attempt, counts_as_failure=True, finish_time=finish_time)
        filled.insert(0, attempt)
    return filled


def _take_reported_success(attempt: Attempt, report: TrainingReport | None) -> Attempt:
    """Return the attempt as one that succeeded when its trainer has reported its results, and nothing shows its failure."""
    if report is None or report.attempt != attempt.number or report.results is None or report.finish_time is None:
        return attempt
    if attempt.cause is not None and attempt.cause.reason not in CONSEQUENCES:
        return attempt
    return replace(
        attempt, pod_exists=False, exit_code=ExitCode.SUCCESS, cause=None, finish_time=report.finish_time, sidecars=()
    )


def take_reported_failure(attempt: Attempt, report: TrainingReport | None) -> Attempt:
    """Return an attempt whose pods show no failure with the one that its trainer has reported, if that is its own."""
    failure = report.failure if report and report.attempt == attempt.reported_number else None
    if attempt.cause is not None or failure is None or failure.reason in CONSEQUENCES:
        return attempt
    return replace(attempt, cause=Cause(failure.reason, failure.message))


def _close_unobserved(attempt: Attempt, report: TrainingReport | None, successor: Attempt) -> Attempt:
    own = report if report and report.attempt == attempt.number else None
    if own is not None and own.failure is not None:
        cause = Cause(own.failure.reason, own.failure.message)
    else:
        cause = Cause(Reason.POD_LOST, "The attempt's pod was deleted before anybody could see why it ended.")
    finish_time = (own and own.finish_time) or successor.create_time or successor.finish_time
    return replace(attempt, cause=cause, counts_as_failure=True, finish_time=finish_time)


def build_from_record(record: AttemptRecord, report: TrainingReport | None = None) -> Attempt:
    """Return an attempt whose pod does not exist, or is not yet processed; `report` may be that of another one."""
    cause = Cause(record.reason, f"Attempt {record.number} ended: {record.reason}.") if record.reason else None
    failure = report.failure if report and report.attempt == record.number else None
    if failure is not None and failure.reason == record.reason:
        cause = Cause(failure.reason, failure.message)
    return Attempt(
        number=record.number,
        reported_number=record.number,
        pod=record.pod,
        pod_uid=None,
        pod_exists=False,
        lacks_pods=True,
        node=record.node,
        nodes=record.node,
        image=None,
        phase="Unknown",
        is_terminating=False,
        create_time=record.start_time,
        start_time=record.start_time,
        finish_time=record.finish_time,
        exit_code=record.exit_code,
        cause=cause,
        counts_as_failure=cause is not None,
        waiting_cause=None,
        termination_report=None,
        is_recorded=cause is not None,
    )


def build_attempt_records(
    begun: list[Attempt], *, completion_time: datetime | None = None, failure: str | None = None
) -> list[AttemptRecord]:
    """Return the records of the attempts for the status.

    An attempt that succeeded, or that the trainer refused, stays open until the task has finished: recording its end
    would be a write of its own, a moment before the Job's condition. So does one without a reason: a pod that follows
    it is the same attempt, as after a suspension. A pod that is to be deleted, because of its sidecars, is recorded before.

    Parameters
    ----------
    begun
        The attempts that have begun, in order.
    completion_time
        When the task finished, None while it has not.
    failure
        The reason of the task's failure.
    """
    records = [_build_record(attempt) for attempt in begun[-MAX_ATTEMPT_RECORDS:]]
    if records and completion_time is not None:
        last = begun[-1]
        reason = last.cause.reason if last.cause and failure == Reason.RETRIES_EXHAUSTED else failure
        end = {
            "finish_time": last.finish_time or completion_time,
            "exit_code": last.exit_code,
            "reason": reason and reason[:128],
        }
        records[-1] = records[-1].model_copy(update=end)
    return records


def build_unseen_success(number: int) -> Attempt:
    """Return an attempt of which is known only that its Job is Complete: its pods are gone."""
    return replace(build_from_record(AttemptRecord(number=number)), exit_code=ExitCode.SUCCESS)


def _build_record(attempt: Attempt) -> AttemptRecord:
    is_to_be_deleted = attempt.cause is not None and bool(attempt.sidecars) and not attempt.is_terminating
    has_failed = is_to_be_deleted or (attempt.counts_as_failure and (attempt.is_recorded or not attempt.is_user_error))
    return AttemptRecord(
        number=attempt.number,
        pod=attempt.pod,
        node=attempt.node,
        start_time=attempt.start_time,
        finish_time=attempt.finish_time if has_failed else None,
        exit_code=attempt.exit_code if has_failed else None,
        reason=attempt.cause.reason[:128] if has_failed and attempt.cause else None,
    )


def build_from_pod(pod: Object, report: TrainingReport | None, kube_events: Mapping[str, KubeEvent]) -> Attempt:
    """Return the attempt of one pod."""
    metadata, status = pod["metadata"], pod.get("status", {})
    container = get_container_status(status)
    state = container.get("state", {})
    terminated: Object = state.get("terminated") or {}
    running: Object = state.get("running") or {}
    termination_report = _parse_termination_message(terminated.get("message", ""))
    start_time = terminated.get("startedAt") or running.get("startedAt")
    phase = status.get("phase", "Pending")
    if phase == "Pending" and start_time:  # another container cannot start
        phase = "Running"
    disruption = find_disruption(status)
    is_terminating = "deletionTimestamp" in metadata
    number = count_attempt(pod)
    exit_code = terminated.get("exitCode")
    # The pod of a trainer that has ended may still run, or have failed by another container.
    has_failed = phase == "Failed" if exit_code is None else exit_code != ExitCode.SUCCESS
    # On a lost node no kubelet is left to report the pod's end.
    cause = disruption if is_terminating and exit_code is None else None
    if has_failed:
        own_report = report if report and report.attempt == number else None
        cause = explain_failure(pod, terminated, termination_report, own_report)
    return Attempt(
        number=number,
        reported_number=number,
        pod=metadata["name"],
        pod_uid=metadata["uid"],
        pod_exists=True,
        lacks_pods=False,
        node=pod.get("spec", {}).get("nodeName"),
        nodes=pod.get("spec", {}).get("nodeName"),
        image=pod.get("spec", {}).get("image"),
        phase=phase,
        is_terminating=is_terminating,
        create_time=parse_time(metadata["creationTimestamp"]),
        start_time=parse_time(start_time) if start_time else None,
        finish_time=parse_time(terminated["finishedAt"]) if terminated.get("finishedAt") else None,
        exit_code=exit_code,
        cause=cause,
        # A pod that the Job controller deletes to suspend the Job is no failure.
        counts_as_failure=has_failed and phase == "Failed" and (not is_terminating or disruption is not None),
        waiting_cause=explain_waiting(status, kube_events.get(metadata["uid"])) if phase == "Pending" else None,
        termination_report=termination_report,
        sidecars=tuple(status.get("sidecars") or ()),
    )


def count_attempt(pod: Object) -> int:
    """Return the number of a pod's attempt by its annotations, as its trainer counts."""
    annotations = pod["metadata"].get("annotations") or {}
    return 1 + sum(parse_count(annotations, name) for name in _COUNT_ANNOTATIONS)


def parse_count(annotations: Object, name: str) -> int:
    """Return the number in an annotation, 0 when it is none."""
    value = str(annotations.get(name, "0"))
    return int(value) if value.isdecimal() and len(value) < 7 else 0  # anybody may edit an annotation


def _parse_termination_message(message: str) -> TrainingReport | None:
    """Return the trainer's termination message; a killed trainer leaves the tail of its log instead."""
    try:
        return TrainingReport.model_validate_json(message)
    except ValidationError:
        return None
