"""The pods of a task, and what its status remembers -> its attempts: when each ran, where, and why it ended. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from trainingtask_api import AttemptRecord, ExitCode, Reason, TrainingReport, TrainingTaskStatus, names
from trainingtask_operator.controller.diagnosis import Cause, Note, disruption, why_failed, why_waiting

Object = Mapping[str, Any]

REMEMBERED = 16  # as many as status.attempts may hold


@dataclass(frozen=True)
class Attempt:
    """One pod of a task's Job, or what is remembered of it."""

    number: int
    reported: int  # what the trainer takes for its number: the pod's own count
    pod: str | None
    uid: str | None  # the pod's; None when it is only remembered
    exists: bool  # the pod is still there
    node: str | None
    image: str | None
    phase: str  # the pod's: Pending, Running, Succeeded or Failed; Unknown when it is gone
    leaving: bool  # the pod is being deleted
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    exit_code: int | None
    cause: Cause | None  # of a failed pod, or of one on a node that is lost
    counted: bool  # failed for good: what comes after it is another attempt
    trouble: Cause | None  # of a pod that cannot start
    last_words: TrainingReport | None  # the trainer's termination message

    @property
    def users_mistake(self) -> bool:
        """The trainer refused the task: it is not tried again."""
        return self.exit_code == ExitCode.USER_ERROR

    @property
    def begun(self) -> bool:
        """It ran, or failed before it could."""
        return self.started is not None or self.cause is not None


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


def attempts_of(
    pods: Iterable[Object], status: TrainingTaskStatus | None = None, notes: Mapping[str, Note] | None = None
) -> list[Attempt]:
    """Return the attempts in order; of two pods of one attempt (suspended and resumed) the later one stands.

    A pod keeps the number that the status remembers for it. Kubernetes forgets its count of failures when a Job is
    suspended, so a new pod that follows a failed one is the next attempt even if its own count says otherwise.

    Parameters
    ----------
    pods
        The task's, in any order.
    status
        The task's, as it is stored: what it remembers of attempts, and the trainer's latest report.
    notes
        Events about the pods, by the pod's uid.
    """
    remembered = (status and status.attempts) or []
    report = status.training if status else None
    known: dict[str | None, int] = {record.pod: record.number for record in remembered if record.pod}
    found = {record.number: _remembered(record) for record in remembered}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        attempt = _attempt(pod, report, notes or {})
        number = known.get(attempt.pod) or max(
            [attempt.number, *(other.number + (1 if other.counted else 0) for other in found.values())]
        )
        found[number] = replace(attempt, number=number)
    return _without_gaps(found, report)


def _without_gaps(found: dict[int, Attempt], report: TrainingReport | None) -> list[Attempt]:
    """Return the attempts by number; what ended unseen, while no operator looked, has ended all the same."""
    if not found:
        return []
    whole = [found[max(found)]]
    while whole[0].number > 1 and len(whole) < REMEMBERED:
        number = whole[0].number - 1
        attempt = found.get(number) or _remembered(AttemptRecord(number=number))
        if not attempt.exists and attempt.cause is None:
            attempt = _ended_unseen(attempt, report, before=whole[0])
        elif attempt.cause is not None:
            attempt = replace(attempt, counted=True)  # also a pod deleted by hand: another attempt has followed it
        whole.insert(0, attempt)
    return whole


def _ended_unseen(attempt: Attempt, report: TrainingReport | None, before: Attempt) -> Attempt:
    own = report if report and report.attempt == attempt.number else None
    if own is not None and own.failure is not None:
        cause = Cause(own.failure.reason, own.failure.message)
    else:
        cause = Cause(Reason.POD_LOST, "The attempt's pod was deleted before anybody could see why it ended.")
    finished = (own and own.finish_time) or before.created or before.finished
    return replace(attempt, cause=cause, counted=True, finished=finished)


def _remembered(record: AttemptRecord) -> Attempt:
    """Return an attempt whose pod is not there (or not yet looked at)."""
    cause = Cause(record.reason, f"Attempt {record.number} ended: {record.reason}.") if record.reason else None
    return Attempt(
        number=record.number,
        reported=record.number,
        pod=record.pod,
        uid=None,
        exists=False,
        node=record.node,
        image=None,
        phase="Unknown",
        leaving=False,
        created=record.start_time,
        started=record.start_time,
        finished=record.finish_time,
        exit_code=record.exit_code,
        cause=cause,
        counted=cause is not None,
        trouble=None,
        last_words=None,
    )


def records_of(
    begun: list[Attempt], *, ended_at: datetime | None = None, failure: str | None = None
) -> list[AttemptRecord]:
    """Return what the status remembers of the attempts.

    An attempt that succeeded, or that the trainer refused, stays open until the task has ended: to tell its end would
    be a write of its own, a moment before the Job's verdict. So does one without a reason: a pod that follows it is
    the same attempt, as after a suspension.

    Parameters
    ----------
    begun
        The attempts that have begun, in order.
    ended_at
        When the task ended, None while it has not.
    failure
        Why it failed.
    """
    records = [_record(attempt) for attempt in begun[-REMEMBERED:]]
    if records and ended_at is not None:
        last = begun[-1]
        own = last.cause.reason if last.cause and failure == Reason.RETRIES_EXHAUSTED else failure
        end = {"finish_time": last.finished or ended_at, "exit_code": last.exit_code, "reason": own and own[:128]}
        records[-1] = records[-1].model_copy(update=end)
    return records


def _record(attempt: Attempt) -> AttemptRecord:
    failed = attempt.counted and not attempt.users_mistake
    return AttemptRecord(
        number=attempt.number,
        pod=attempt.pod,
        node=attempt.node,
        start_time=attempt.started,
        finish_time=attempt.finished if failed else None,
        exit_code=attempt.exit_code if failed else None,
        reason=attempt.cause.reason[:128] if failed and attempt.cause else None,
    )


def _attempt(pod: Object, report: TrainingReport | None, notes: Mapping[str, Note]) -> Attempt:
    metadata, status = pod["metadata"], pod.get("status", {})
    annotations = metadata.get("annotations") or {}
    container = container_status(status)
    state = container.get("state", {})
    ended: Object = state.get("terminated") or {}
    running: Object = state.get("running") or {}
    last_words = _last_words(ended.get("message", ""))
    started = ended.get("startedAt") or running.get("startedAt")
    phase = status.get("phase", "Pending")
    taken = disruption(status)
    leaving = "deletionTimestamp" in metadata
    counts = (names.FAILURE_COUNT_ANNOTATION, names.IGNORED_FAILURE_COUNT_ANNOTATION)
    number = 1 + sum(_count(annotations, name) for name in counts)
    # On a node that is lost nobody is left to say that the pod has ended.
    cause = taken if leaving else None
    if phase == "Failed":
        cause = why_failed(pod, ended, last_words, report if report and report.attempt == number else None)
    return Attempt(
        number=number,
        reported=number,
        pod=metadata["name"],
        uid=metadata["uid"],
        exists=True,
        node=pod.get("spec", {}).get("nodeName"),
        image=pod.get("spec", {}).get("image"),
        phase=phase,
        leaving=leaving,
        created=parse_time(metadata["creationTimestamp"]),
        started=parse_time(started) if started else None,
        finished=parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
        exit_code=ended.get("exitCode"),
        cause=cause,
        # A pod that the Job controller deletes to suspend the Job is no failure.
        counted=phase == "Failed" and (not leaving or taken is not None),
        trouble=why_waiting(status, container, notes.get(metadata["uid"])) if phase == "Pending" else None,
        last_words=last_words,
    )


def _count(annotations: Object, name: str) -> int:
    value = str(annotations.get(name, "0"))
    return int(value) if value.isdecimal() and len(value) < 7 else 0  # else somebody wrote into it


def container_status(status: Object) -> Object:
    """Return the status of the trainer's container, {} when a pod's status has none."""
    statuses: list[Object] = status.get("containerStatuses") or []
    return next((item for item in statuses if item.get("name") == names.TRAINER_CONTAINER), {})


def _last_words(message: str) -> TrainingReport | None:
    """Return the trainer's termination message; a killed trainer leaves the tail of its log instead."""
    try:
        return TrainingReport.model_validate_json(message)
    except ValidationError:
        return None
