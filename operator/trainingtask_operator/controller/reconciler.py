"""The reconcile of a task: observe, act on its Job, write the status once at the end, record the rows."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import ValidationError

from trainingtask_api import Condition, TrainingReport, TrainingTask, TrainingTaskStatus, describe_errors, names
from trainingtask_history.tables import TrainingRun
from trainingtask_operator import logs
from trainingtask_operator.cache.assume_cache import AssumeCache, Observed
from trainingtask_operator.cache.cached_fields import trim_pod
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.protocol import Cluster
from trainingtask_operator.controller import conditions, preconditions, run_records, task_parser
from trainingtask_operator.controller.attempts import Attempt, build_unseen_success
from trainingtask_operator.controller.deadline import compute_time_left, compute_ttl_left
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.group_attempts import build_task_attempts
from trainingtask_operator.controller.heartbeat import compute_requeue_after
from trainingtask_operator.controller.job_lifecycle import JobLifecycle
from trainingtask_operator.controller.kube_events import build_warnings
from trainingtask_operator.controller.kueue import compute_workload_wait, explain_suspended_job
from trainingtask_operator.controller.sidecars import find_pod_to_delete
from trainingtask_operator.history.recorder import Recorder
from trainingtask_operator.kube_objects import Key, Object, get_true_conditions, is_controlled_by, is_finished
from trainingtask_operator.settings import Settings

log = logging.getLogger(__name__)

REQUEUE_AFTER_JOB_CREATED = timedelta(0)
REQUEUE_AFTER_SUCCESS = timedelta(0)
REQUEUE_UNTIL_LOGGED = timedelta(seconds=1)
# In which the log of a trainer that succeeded is read before its Job is deleted: Kubernetes makes the next pod after 10 s.
LOG_TIMEOUT = timedelta(seconds=8)
REQUEUE_UNTIL_RECORDED = timedelta(seconds=5)
REQUEUE_AFTER_CONFLICT = timedelta(seconds=10)  # a Job without our labels has no watch event
REQUEUE_UNTIL_JOBSET = timedelta(seconds=10)  # of a cluster without JobSet
REQUEUE_UNTIL_CLAIM = timedelta(seconds=30)  # claims are not watched


class TaskGoneError(Exception):
    """The task was deleted, or deleted and created again, since it was observed."""


@dataclass(frozen=True)
class Result:
    """The status that a reconcile arrived at, and what follows its write.

    Attributes
    ----------
    status
        None to write none yet.
    job_to_delete, pod_to_delete
        Deleted after the status is written.
    is_job_superfluous
        Whether the Job is deleted once the log is recorded.
    error
        Raised after the status is written.
    """

    task: TrainingTask
    attempts: list[Attempt]
    status: TrainingTaskStatus | None
    requeue_after: timedelta | None = None
    job_to_delete: Object | None = None
    pod_to_delete: Object | None = None
    is_job_superfluous: bool = False
    error: ClusterError | None = None


class Reconciler:
    """Reconciles one task at a time. Its memory between calls only saves work."""

    def __init__(
        self,
        cluster: Cluster,
        cache: AssumeCache,
        settings: Settings,
        recorder: Recorder,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._settings = settings
        self._recorder = recorder
        self._clock = clock
        self._jobs = JobLifecycle(cluster, cache.assume, settings)
        self._recorded_uids: dict[Key, str] = {}  # of unfinished tasks whose rows were submitted for the present status

    def forget_rows(self, key: Key) -> None:
        """Let the next reconcile submit the rows of a task again: they had no room."""
        self._recorded_uids.pop(key, None)

    async def reconcile(self, namespace: str, name: str) -> timedelta | None:
        """Do what the task needs now; return when to reconcile again without an event, None for never.

        Raises
        ------
        ClusterError
            When a request failed and the task must be reconciled again.
        """
        observed = self._cache.observe(namespace, name)
        if observed is None:
            self._recorded_uids.pop((namespace, name), None)
        if observed is None or observed.task["metadata"].get("deletionTimestamp"):
            return None  # the garbage collector deletes the Job, by its owner reference
        task = task_parser.parse_task(observed.task, self._clock())
        if task is None:
            await self._reject_invalid_spec(observed.task)
            return None
        attempts = build_task_attempts(task, observed.pods, observed.kube_events)
        with logs.log_context(uid=task.metadata.uid, attempt=attempts[-1].number if attempts else None):
            try:
                if task.status is not None and task.status.finished_at is not None:
                    return await self._reconcile_finished(task, observed, attempts)
                result = await self._reconcile_task(task, observed, attempts)
                await self._write_status(result)
            except TaskGoneError:
                log.info("%s/%s was deleted meanwhile", namespace, name)
                return REQUEUE_AFTER_CONFLICT  # a 409 may have another cause
            if result.job_to_delete is not None:
                await self._jobs.delete(result.job_to_delete)
            if result.pod_to_delete is not None:
                await self._jobs.delete_pod(result.pod_to_delete)
            if result.error is not None:
                raise result.error
            return result.requeue_after

    async def _reconcile_task(self, task: TrainingTask, observed: Observed, attempts: list[Attempt]) -> Result:
        job = observed.job
        if conditions.has_trained(task.status):
            try:
                job = job or await self._jobs.find(task)
            except ClusterError as error:
                if not error.is_not_served:
                    raise
                return self._refuse(
                    task, attempts, preconditions.explain_missing_jobset_kind(task), requeue=REQUEUE_UNTIL_JOBSET
                )
            if job is None or conditions.is_terminating_unfinished(job):
                return await self._reconcile_deleted_job(task, attempts)
        if job is None:
            return await self._reconcile_missing_job(task, observed, attempts)
        job, workload, queue_cause = await self._jobs.sync_suspension(task, job, observed.kueue_workload)
        observed = replace(observed, kueue_workload=workload)
        return await self._reconcile_job(task, job, observed, attempts, queue_cause)

    async def _reconcile_missing_job(self, task: TrainingTask, observed: Observed, attempts: list[Attempt]) -> Result:
        cause = preconditions.find_unmet_precondition(task, self._settings)
        if cause is not None:
            return self._refuse(task, attempts, cause)
        if cause := await self._jobs.find_unshared_claim(task):
            return self._refuse(task, attempts, cause, requeue=REQUEUE_UNTIL_CLAIM)
        if task.spec.run_policy.suspend:  # Kueue would start a Job
            return Result(task, attempts, conditions.build_status(task, None, attempts, self._clock()))
        if task.status is not None:  # its Job may be gone because the task is, which its watch has not shown yet
            await self._get_live_report(task)
        try:
            job = await self._jobs.create(task)
        except ClusterError as error:
            if error.is_not_served:
                cause = preconditions.explain_missing_jobset_kind(task)
                return self._refuse(task, attempts, cause, requeue=REQUEUE_UNTIL_JOBSET)
            if not error.is_rejected:
                raise
            return self._refuse(task, attempts, preconditions.explain_rejected_job(task, error), error=error)
        if job is None:
            cause = preconditions.explain_name_conflict(task)
            return self._refuse(task, attempts, cause, requeue=REQUEUE_AFTER_CONFLICT)
        if task.status is None:  # of a thousand new tasks, each gets its Job before the first gets its status
            return Result(task, attempts, None, REQUEUE_AFTER_JOB_CREATED)
        return await self._reconcile_job(task, job, observed, attempts, None)

    def _refuse(
        self,
        task: TrainingTask,
        attempts: list[Attempt],
        cause: Cause,
        *,
        requeue: timedelta | None = None,
        error: ClusterError | None = None,
    ) -> Result:
        status = conditions.build_refused_status(task, cause, self._clock(), attempts)
        return Result(task, attempts, status, requeue, error=error)

    async def _reconcile_job(
        self, task: TrainingTask, job: Object, observed: Observed, attempts: list[Attempt], queue_cause: Cause | None
    ) -> Result:
        if attempts and await self._is_namespace_terminating(task, attempts[-1]):
            status = conditions.build_cancelled_status(task, attempts, self._clock())
            return Result(task, attempts, status, job_to_delete=job)
        event, now = observed.missing_pod_event, self._clock()
        has_succeeded = bool(attempts) and attempts[-1].has_succeeded
        time_left = None if has_succeeded else compute_time_left(task, job, now)
        if time_left is not None and time_left <= timedelta(0):
            return Result(task, attempts, conditions.build_overdue_status(task, attempts, now), job_to_delete=job)
        workload_wait = compute_workload_wait(task, job, observed.kueue_workload, self._settings, now)
        build = partial(
            conditions.build_status,
            kube_event=event,
            queue_cause=queue_cause,
            suspended_cause=explain_suspended_job(task, job, observed.kueue_workload, self._settings, now),
        )
        status = build(task, job, attempts, now)
        if status.finished_at is not None:
            attempts = await self._refresh_last_attempt(task, observed, attempts)
            status = build(task, job, attempts, now)
            task = await self._restore_report(task, attempts)
            if conditions.is_ended_by_operator(status, job):
                return Result(task, attempts, status, REQUEUE_AFTER_SUCCESS, is_job_superfluous=True)
            return Result(task, attempts, status)
        waits = (compute_requeue_after(task, attempts, now), workload_wait, time_left)
        requeue_after = min((wait for wait in waits if wait is not None), default=None)
        pod = find_pod_to_delete(attempts[-1], observed.pods, now) if attempts else None
        return Result(task, attempts, status, requeue_after, pod_to_delete=pod)

    async def _reconcile_deleted_job(self, task: TrainingTask, attempts: list[Attempt]) -> Result:
        # With a deleted task its Job goes, and the Job's watch may be first: get the live task. It also has the
        # trainer's latest report.
        report = await self._get_live_report(task)
        task = task if report is None else _with_report(task, report)
        # With a deleted namespace the Job may go before the task.
        is_terminating = await self._cluster.is_namespace_terminating(task.metadata.namespace)
        build = conditions.build_cancelled_status if is_terminating else conditions.build_job_deleted_status
        return Result(task, attempts, build(task, attempts, self._clock()))

    async def _reconcile_finished(
        self, task: TrainingTask, observed: Observed, attempts: list[Attempt]
    ) -> timedelta | None:
        """Record a finished task, then delete its Job or hand it to the TTL controller, and delete the task if it asks for that."""
        job, now = observed.job, self._clock()
        attempts = await self._refresh_last_attempt(task, observed, attempts)
        task = await self._restore_report(task, attempts)
        status = task.status or TrainingTaskStatus()
        is_ended_by_operator = job is not None and conditions.is_ended_by_operator(status, job)
        rows = self._submit_rows(task, status, attempts, is_deleting=is_ended_by_operator)
        if job is not None and is_ended_by_operator:
            if not self._recorder.is_recorded(rows) and _may_wait_for_log(status, now):
                return REQUEUE_UNTIL_LOGGED
            await self._jobs.delete(job)
            job = None
        ttl = task.spec.run_policy.ttl_seconds_after_finished
        needs_ttl = job is not None and job["spec"].get("ttlSecondsAfterFinished") != ttl
        time_left = compute_ttl_left(task, now) if self._recorder.has_history else None
        if not needs_ttl and (time_left is None or time_left > timedelta(0)):
            return time_left
        if not self._recorder.is_recorded(rows):
            return REQUEUE_UNTIL_RECORDED
        if job is not None and needs_ttl:
            await self._jobs.set_ttl(job, ttl)
        if time_left is not None and time_left <= timedelta(0):
            await self._jobs.delete_task(observed.task)
            return None
        return time_left

    async def _reject_invalid_spec(self, body: Object) -> None:
        """Write the condition of a spec that the schema of another release let in; leave the rest of the status."""
        try:
            TrainingTask.model_validate({**body, "status": None})
        except ValidationError as error:
            message = describe_errors(error)[:2048]
        else:
            return
        metadata = body["metadata"]
        log.warning("%s/%s has an invalid spec: %s", metadata["namespace"], metadata["name"], message)
        if is_finished(body) or task_parser.has_invalid_spec_condition(body, message):
            return
        status = task_parser.build_invalid_spec_status(body, message, self._clock())
        with contextlib.suppress(TaskGoneError):
            await self._apply_status(metadata["namespace"], metadata["name"], metadata["uid"], status)

    async def _is_namespace_terminating(self, task: TrainingTask, latest: Attempt) -> bool:
        """Return whether the namespace is being deleted; asked only when a failed pod is, and not for a suspension.

        Such a namespace would wait for ever. Kubernetes deletes its pods before its Jobs; the Job controller keeps the
        last failed pod of an index until there is another, for its count of failures; and there can be no other.
        """
        return (
            latest.is_terminating
            and latest.phase == "Failed"
            and not task.spec.run_policy.suspend
            and await self._cluster.is_namespace_terminating(task.metadata.namespace)
        )

    async def _refresh_last_attempt(
        self, task: TrainingTask, observed: Observed, attempts: list[Attempt]
    ) -> list[Attempt]:
        """Return the attempts with the end of the last one: the watch of Jobs may be ahead of that of pods."""
        is_complete = "Complete" in get_true_conditions(observed.job)
        if (
            attempts
            and attempts[-1].phase not in ("Pending", "Running")
            and not (is_complete and attempts[-1].counts_as_failure)
        ):
            return attempts
        live = await self._cluster.list_pods(task.metadata.namespace, task.metadata.uid or "")
        owned = [pod for pod in live if any(is_controlled_by(pod, owner) for owner in observed.pod_owners)]
        pods = [trim_pod(pod) for pod in owned] or observed.pods
        attempts = build_task_attempts(task, pods, observed.kube_events)
        if is_complete and attempts and attempts[-1].counts_as_failure:
            attempts.append(build_unseen_success(attempts[-1].number + 1))
        return attempts

    async def _restore_report(self, task: TrainingTask, attempts: list[Attempt]) -> TrainingTask:
        """Return the task with the trainer's last report; store it if the trainer could not reach the API server."""
        report = attempts[-1].termination_report if attempts else None
        stored = task.status.training if task.status else None
        if report is None or report.finish_time is None or not task_parser.is_plausible(report, task, self._clock()):
            return task
        if stored is not None and stored.finish_time is not None and stored.finish_time >= report.finish_time:
            return task
        live = await self._get_live_report(task)
        if live is not None and live.finish_time is not None and live.finish_time >= report.finish_time:
            # The watch lags. A termination message is cut to 4 KiB and must not replace the whole report.
            return _with_report(task, live)
        metadata, status = task.metadata, {"training": report.to_json()}
        try:
            await self._apply_status(
                metadata.namespace, metadata.name, metadata.uid or "", status, manager=names.TRAINER_FIELD_MANAGER
            )
        except ClusterError as error:
            if not error.is_rejected:
                raise
            # A user's own image may report what the schema rejects; the end must be recorded all the same.
            log.warning("%s/%s: the trainer's last report is refused: %s", metadata.namespace, metadata.name, error)
            return task
        return _with_report(task, report)

    async def _get_live_report(self, task: TrainingTask) -> TrainingReport | None:
        try:
            body = await self._cluster.get_task(task.metadata.namespace, task.metadata.name)
        except ClusterError as error:
            if error.is_not_found:
                raise TaskGoneError from error
            raise
        live = task_parser.parse_task(body, self._clock())
        if live is not None and live.metadata.uid != task.metadata.uid:
            raise TaskGoneError
        return live.status.training if live and live.status else None

    async def _write_status(self, result: Result) -> None:
        """Write the status if it changed, emit Events, and submit the rows."""
        task, status = result.task, result.status
        if status is None:
            return
        before, uid, key = task.status, task.metadata.uid or "", (task.metadata.namespace, task.metadata.name)
        stored = before.model_copy(update={"training": None}) if before else None
        if status == stored and self._recorded_uids.get(key) == uid:
            return
        if status != stored:
            await self._apply_status(task.metadata.namespace, task.metadata.name, uid, status.to_json())
            await self._emit_events(task, conditions.find_transitions(before, status))
        training = before.training if before else None
        task = task.model_copy(update={"status": status.model_copy(update={"training": training})})
        is_deleting = result.is_job_superfluous or result.job_to_delete is not None
        self._submit_rows(task, status, result.attempts, is_deleting=is_deleting)
        if status.finished_at is None:
            self._recorded_uids[key] = uid
        else:
            self._recorded_uids.pop(key, None)

    def _submit_rows(
        self, task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt], *, is_deleting: bool = False
    ) -> list[TrainingRun]:
        rows = run_records.build_rows(task, status, attempts)
        log_pods = run_records.select_log_pods(task, attempts, is_deleting=is_deleting)
        self._recorder.submit(rows, log_pods, run_records.build_run_events(status, rows, attempts))
        return rows

    async def _emit_events(self, task: TrainingTask, transitions: list[Condition]) -> None:
        """Log the transitions, and create Warning Events for those that need attention."""
        namespace, name = task.metadata.namespace, task.metadata.name
        if transitions:
            changes = ", ".join(f"{change.type}={change.status} ({change.reason})" for change in transitions)
            log.info("%s/%s: %s", namespace, name, changes)
        for event in build_warnings(task, transitions, self._clock()):
            try:
                await self._cluster.create_event(event)
            except ClusterError as error:  # the status has the same message
                log.warning("%s/%s: no event for %s: %s", namespace, name, event["reason"], error)

    async def _apply_status(
        self, namespace: str, name: str, uid: str, status: Object, *, manager: str = names.OPERATOR_FIELD_MANAGER
    ) -> None:
        try:
            self._cache.assume(await self._cluster.apply_status(namespace, name, uid, status, manager=manager))
        except ClusterError as error:
            if error.is_not_found or (error.is_conflict and await self._is_replaced(namespace, name, uid)):
                raise TaskGoneError from error
            raise

    async def _is_replaced(self, namespace: str, name: str, uid: str) -> bool:
        """Return whether the task of this uid is gone; a conflict may also come from another writer."""
        try:
            return bool((await self._cluster.get_task(namespace, name))["metadata"]["uid"] != uid)
        except ClusterError as error:
            if error.is_not_found:
                return True
            raise


def _may_wait_for_log(status: TrainingTaskStatus, now: datetime) -> bool:
    complete = status.get_condition("Complete")
    return complete is not None and now - complete.last_transition_time < LOG_TIMEOUT


def _with_report(task: TrainingTask, report: TrainingReport) -> TrainingTask:
    status = (task.status or TrainingTaskStatus()).model_copy(update={"training": report})
    return task.model_copy(update={"status": status})
