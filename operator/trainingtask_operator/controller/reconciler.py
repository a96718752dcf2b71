"""The life of a task, in one function from top to bottom: observe, plan, act, write the status at most once more."""

import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import ValidationError

from trainingtask_api import Condition, TrainingReport, TrainingTask, TrainingTaskStatus, describe_errors, names
from trainingtask_history.tables import RunEvent, TrainingRun
from trainingtask_operator import logs
from trainingtask_operator.client.kubernetes import Cluster, ClusterError
from trainingtask_operator.controller import conditions, kube_events
from trainingtask_operator.controller.attempts import Attempt, attempts_of
from trainingtask_operator.controller.diagnosis import Cause, Note
from trainingtask_operator.controller.job_builder import build_job, controlled_by, job_name, labels_of
from trainingtask_operator.controller.preconditions import (
    job_refused,
    name_conflict,
    no_workload,
    obstacle_of,
    workload_refused,
)
from trainingtask_operator.controller.run_records import events_of, logs_of, rows_of
from trainingtask_operator.controller.task_parser import has_ended, invalid_spec, is_believable, parse, says_invalid
from trainingtask_operator.settings import Settings

Object = Mapping[str, Any]

log = logging.getLogger(__name__)

STORED_AGAIN_AFTER = timedelta(seconds=5)
AFTER_OTHERS = timedelta(0)
CONFLICT_AGAIN_AFTER = timedelta(seconds=10)  # a Job without our labels goes unseen
QUEUE_AGAIN_AFTER = timedelta(seconds=10)  # Kueue makes a Job's Workload within moments, and tells nobody


@dataclass(frozen=True)
class Observed:
    """What the watches know of one task."""

    task: Object
    job: Object | None
    pods: list[Object]
    notes: Mapping[str, Note] = field(default_factory=dict)  # Events about the Job and the pods, by their uid


class View(Protocol):
    """The watched objects, kept up to date by whoever watches."""

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what is known of the task, None when there is no such task."""

    def wrote(self, written: Object) -> None:
        """Take an object as the API server returned it from a write: its watch event may be a while."""


class History(Protocol):
    """Where rows go; writing happens elsewhere and delays nobody."""

    def submit(
        self,
        rows: list[TrainingRun],
        logs: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        """Take the rows to be written, for some the pod whose log is to be kept with it, and what happened to them."""

    def stored(self, rows: list[TrainingRun]) -> bool:
        """Tell whether the rows, as they are, have been written."""


class TaskGoneError(Exception):
    """The task was deleted, or deleted and created again, since it was observed: that one's events bring us back."""


class Reconciler:
    """Brings the cluster in line with one task at a time. What it remembers between calls only spares work."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        settings: Settings,
        history: History,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._view = view
        self._settings = settings
        self._history = history
        self._clock = clock
        self._brought: set[str] = set()  # uids of tasks whose rows, as their status stands, went to the history

    async def reconcile(self, namespace: str, name: str) -> timedelta | None:
        """Do what the task needs now; return when to look again even if nothing happens, None for never.

        Raises
        ------
        ClusterError
            When a request failed and the task has to be looked at again.
        """
        observed = self._view.observe(namespace, name)
        if observed is None or observed.task["metadata"].get("deletionTimestamp"):
            return None  # its Job goes with it: the garbage collector follows the owner reference
        task = parse(observed.task, self._clock())
        if task is None:
            await self._refuse_unreadable(observed.task)
            return None
        attempts = attempts_of(observed.pods, task.status, observed.notes)
        with logs.about(uid=task.metadata.uid, attempt=attempts[-1].number if attempts else None):
            try:
                return await self._bring_in_line(task, observed, attempts)
            except TaskGoneError:
                log.info("%s/%s was deleted meanwhile", namespace, name)
                return CONFLICT_AGAIN_AFTER  # or else the API server was mistaken: a 409 has other causes, too

    async def _bring_in_line(self, task: TrainingTask, observed: Observed, attempts: list[Attempt]) -> timedelta | None:
        if task.status is not None and task.status.finished_at is not None:
            return await self._put_away(task, observed.job, attempts)

        job = observed.job or await self._find_job(task)
        queue_trouble = None
        if conditions.has_trained(task.status) and (job is None or conditions.is_deleted(job)):
            await self._tell_of_deleted_job(task, attempts)
            return None
        if job is None:
            obstacle = obstacle_of(task, self._settings)
            if obstacle is not None:
                await self._write(task, conditions.refused(task, obstacle, self._clock()), attempts)
                return None
            if task.spec.run_policy.suspend and task.spec.run_policy.queue_name:  # a Job would be the queue's to start
                await self._write(task, conditions.status_of(task, None, attempts, self._clock()), attempts)
                return None
            try:
                job = await self._create_job(task)
            except ClusterError as error:
                if error.refused:
                    await self._write(task, conditions.refused(task, job_refused(error), self._clock()), attempts)
                raise
            if job is None:
                await self._write(task, conditions.refused(task, name_conflict(task), self._clock()), attempts)
                return CONFLICT_AGAIN_AFTER
            if task.status is None:
                return AFTER_OTHERS  # of a thousand new tasks, each has its Job before the first is told so
        else:
            queue_trouble = await self._suspend_or_resume(task, job)
        if attempts and attempts[-1].leaving and await self._goes_with_its_namespace(task, attempts[-1]):
            await self._write(task, conditions.cancelled(task, attempts, self._clock()), attempts)
            await self._delete(job)
            return None
        note = observed.notes.get(job["metadata"]["uid"])
        now = self._clock()
        status = conditions.status_of(task, job, attempts, now, note=note, queue_trouble=queue_trouble)
        if status.finished_at is not None:
            attempts = await self._with_last_end(task, observed, attempts)
            status = conditions.status_of(task, job, attempts, now, note=note, queue_trouble=queue_trouble)
            task = await self._repair_report(task, attempts)
        await self._write(task, status, attempts)
        return QUEUE_AGAIN_AFTER if queue_trouble else conditions.next_look(task, attempts, now)

    async def _with_last_end(self, task: TrainingTask, observed: Observed, attempts: list[Attempt]) -> list[Attempt]:
        """Return the attempts with the end of the last one: the watch of Jobs may be ahead of that of pods."""
        if attempts and attempts[-1].phase not in ("Pending", "Running"):
            return attempts
        pods = await self._cluster.pods_of(task.metadata.namespace, task.metadata.uid or "")
        return attempts_of(pods or observed.pods, task.status, observed.notes)

    async def _tell_of_deleted_job(self, task: TrainingTask, attempts: list[Attempt]) -> None:
        # A Job goes with its task, and the Job's watch may be the first to show it. The live task also knows whether
        # the trainer had finished before.
        report = await self._live_report(task)
        task = task if report is None else _with_report(task, report)
        # A namespace that is deleted takes the Job along, before the task as it may be.
        ending = await self._cluster.is_ending(task.metadata.namespace)
        end = conditions.cancelled if ending else conditions.job_deleted
        await self._write(task, end(task, attempts, self._clock()), attempts)

    async def _refuse_unreadable(self, body: Object) -> None:
        """Say why a spec cannot be read (the schema of another release let it in), and leave the rest of the status."""
        try:
            TrainingTask.model_validate({**body, "status": None})
        except ValidationError as error:
            message = describe_errors(error)[:2048]
        else:
            return
        metadata = body["metadata"]
        log.warning("%s/%s has an invalid spec: %s", metadata["namespace"], metadata["name"], message)
        if has_ended(body) or says_invalid(body, message):
            return
        status = invalid_spec(body, message, self._clock())
        with contextlib.suppress(TaskGoneError):
            await self._apply(metadata["namespace"], metadata["name"], metadata["uid"], status)

    async def _create_job(self, task: TrainingTask) -> Object | None:
        """Create the task's Job, or adopt it when an earlier try did; None when the name is somebody else's."""
        try:
            created = await self._cluster.create_job(build_job(task, self._settings))
        except ClusterError as error:
            if not error.conflict:
                raise
            return await self._adopt(task)
        self._view.wrote(created)
        return created

    async def _find_job(self, task: TrainingTask) -> Object | None:
        """Look for the Job of a task that has trained, before it is called deleted: the watch may not show it.

        A watch may lag behind, or somebody may have taken the labels off by which it finds the Job.
        """
        if not conditions.has_trained(task.status):
            return None
        try:
            return await self._adopt(task)
        except ClusterError as error:
            if error.not_found:
                return None
            raise

    async def _adopt(self, task: TrainingTask) -> Object | None:
        """Return the Job of this name if it is the task's, with its labels put back; None if it is somebody else's."""
        job = await self._cluster.get_job(task.metadata.namespace, job_name(task))
        if not controlled_by(job, task.metadata.uid or ""):
            return None
        labels = labels_of(task)
        if (job["metadata"].get("labels") or {}).items() >= labels.items():
            return job
        patched = await self._cluster.patch_job(
            task.metadata.namespace, job_name(task), {"metadata": {"labels": labels}}
        )
        self._view.wrote(patched)
        return patched

    async def _suspend_or_resume(self, task: TrainingTask, job: Object) -> Cause | None:
        """Let the Job run or not, as the task says; return why that could not be done in a queue."""
        if conditions.job_conditions(job).keys() & {"Complete", "Failed"}:
            return None
        wanted, is_suspended = task.spec.run_policy.suspend, bool(job["spec"].get("suspend", False))
        namespace, name = task.metadata.namespace, job["metadata"]["name"]
        if task.spec.run_policy.queue_name is None:
            if is_suspended != wanted:
                self._view.wrote(await self._cluster.patch_job(namespace, name, {"spec": {"suspend": wanted}}))
            return None
        told = task.status is not None and task.status.is_true("Suspended")
        if told == wanted and (is_suspended or not wanted):
            return None
        # Kueue alone suspends the Jobs of its queues: it starts again whatever else was stopped.
        try:
            found = await self._cluster.set_workload_active(namespace, job["metadata"]["uid"], not wanted)
        except ClusterError as error:
            if not error.refused:
                raise
            return workload_refused(task, error)
        return None if found else no_workload(task)

    async def _goes_with_its_namespace(self, task: TrainingTask, latest: Attempt) -> bool:
        """Tell whether the namespace is being deleted: asked only when a pod is, and nobody says why.

        Such a namespace would wait for ever. Kubernetes deletes its pods before its Jobs; the Job controller keeps the
        last failed pod of an index until there is another, for its count of failures; and there can be no other.
        """
        return (
            latest.phase == "Failed"
            and not task.spec.run_policy.suspend
            and await self._cluster.is_ending(task.metadata.namespace)
        )

    async def _delete(self, job: Object) -> None:
        try:
            await self._cluster.delete_job(job["metadata"]["namespace"], job["metadata"]["name"])
        except ClusterError as error:
            if not error.not_found:
                raise

    async def _put_away(self, task: TrainingTask, job: Object | None, attempts: list[Attempt]) -> timedelta | None:
        """See to it that a task that has ended is on record, and that its Job goes in time."""
        task = await self._repair_report(task, attempts)
        status = task.status or TrainingTaskStatus()
        rows = rows_of(task, status, attempts)
        self._history.submit(rows, logs_of(task, attempts), events_of(status, rows, attempts))
        if job is not None and conditions.is_cancelled(status):
            await self._delete(job)
            return None
        return await self._clean_up(task, job, rows)

    async def _clean_up(self, task: TrainingTask, job: Object | None, rows: list[TrainingRun]) -> timedelta | None:
        """Hand the finished Job to the TTL controller when its end is on record; return when to ask for that again."""
        ttl = task.spec.run_policy.ttl_seconds_after_finished
        if job is None or job["spec"].get("ttlSecondsAfterFinished") == ttl:
            return None
        if not self._history.stored(rows):
            return STORED_AGAIN_AFTER
        patch = {"spec": {"ttlSecondsAfterFinished": ttl}}
        try:
            self._view.wrote(await self._cluster.patch_job(task.metadata.namespace, job["metadata"]["name"], patch))
        except ClusterError as error:
            if not error.not_found:  # cleaned up already
                raise
        return None

    async def _repair_report(self, task: TrainingTask, attempts: list[Attempt]) -> TrainingTask:
        """Store the trainer's last words for it, when the API server was away as it said them; return the task with them."""
        report = attempts[-1].last_words if attempts else None
        stored = task.status.training if task.status else None
        if report is None or report.finish_time is None or not is_believable(report, task, self._clock()):
            return task
        if stored is not None and stored.finish_time is not None and stored.finish_time >= report.finish_time:
            return task
        metadata = task.metadata
        words = {"training": report.to_json()}
        live = await self._live_report(task)
        if live is not None and live.finish_time is not None and live.finish_time >= report.finish_time:
            return _with_report(
                task, live
            )  # the watch lags: what the pod left is cut to 4 KiB, and must not replace it
        try:
            await self._apply(
                metadata.namespace, metadata.name, metadata.uid or "", words, manager=names.TRAINER_FIELD_MANAGER
            )
        except ClusterError as error:
            if not error.refused:
                raise
            # An image of somebody's own may say what the schema refuses: its end must be recorded all the same.
            log.warning("%s/%s: the trainer's last report is refused: %s", metadata.namespace, metadata.name, error)
            return task
        return _with_report(task, report)

    async def _live_report(self, task: TrainingTask) -> TrainingReport | None:
        try:
            live = parse(await self._cluster.get_task(task.metadata.namespace, task.metadata.name), self._clock())
        except ClusterError as error:
            if error.not_found:
                raise TaskGoneError from error
            raise
        if live is not None and live.metadata.uid != task.metadata.uid:
            raise TaskGoneError
        return live.status.training if live and live.status else None

    async def _write(self, task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> TrainingTask:
        """Store `status` if it says anything new, tell of trouble, pass the rows on; return the task as it is now."""
        before, uid = task.status, task.metadata.uid or ""
        said = before.model_copy(update={"training": None}) if before else None
        if status == said and uid in self._brought:
            return task
        if status != said:
            await self._apply(task.metadata.namespace, task.metadata.name, uid, status.to_json())
            await self._tell(task, conditions.transitions(before, status))
        task = task.model_copy(
            update={"status": status.model_copy(update={"training": before.training if before else None})}
        )
        rows = rows_of(task, status, attempts)
        self._history.submit(rows, logs_of(task, attempts), events_of(status, rows, attempts))
        if status.finished_at is None:
            self._brought.add(uid)
        else:
            self._brought.discard(uid)
        return task

    async def _tell(self, task: TrainingTask, transitions: list[Condition]) -> None:
        """Log what has changed; make an Event of what is trouble."""
        if transitions:
            changes = ", ".join(f"{change.type}={change.status} ({change.reason})" for change in transitions)
            log.info("%s/%s: %s", task.metadata.namespace, task.metadata.name, changes)
        for event in kube_events.warnings_for(task, transitions, self._clock()):
            try:
                await self._cluster.create_event(event)
            except ClusterError as error:  # the status holds the same sentence; an event is only the faster way to it
                log.warning(
                    "%s/%s: no event for %s: %s", task.metadata.namespace, task.metadata.name, event["reason"], error
                )

    async def _apply(
        self,
        namespace: str,
        name: str,
        uid: str,
        status: dict[str, Any],
        *,
        manager: str = names.OPERATOR_FIELD_MANAGER,
    ) -> None:
        try:
            self._view.wrote(await self._cluster.apply_status(namespace, name, uid, status, manager=manager))
        except ClusterError as error:
            if error.not_found or (error.conflict and await self._is_another(namespace, name, uid)):
                raise TaskGoneError from error
            raise

    async def _is_another(self, namespace: str, name: str, uid: str) -> bool:
        """Tell whether the task of this uid is gone; a conflict may mean no more than that others write to it too."""
        try:
            return bool((await self._cluster.get_task(namespace, name))["metadata"]["uid"] != uid)
        except ClusterError as error:
            if error.not_found:
                return True
            raise


def _with_report(task: TrainingTask, report: TrainingReport) -> TrainingTask:
    status = (task.status or TrainingTaskStatus()).model_copy(update={"training": report})
    return task.model_copy(update={"status": status})
