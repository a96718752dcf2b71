"""The life of a task, in one function from top to bottom: observe, plan, act, write the status at most once more."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import ValidationError

from trainingtask_api import TrainingTask, TrainingTaskStatus, describe_errors, names
from trainingtask_api.run import TrainingRun
from trainingtask_operator import conditions, events
from trainingtask_operator.attempts import Attempt, Cause, attempts_of
from trainingtask_operator.cluster import Cluster, ClusterError
from trainingtask_operator.history import rows_of
from trainingtask_operator.jobs import build_job, job_name
from trainingtask_operator.settings import Settings

Object = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """What the watches know of one task."""

    task: Object
    job: Object | None
    pods: list[Object]


class View(Protocol):
    """The watched objects, kept up to date by whoever watches."""

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what is known of the task, None when there is no such task."""

    def wrote(self, written: Object) -> None:
        """Take an object as the API server returned it from a write: its watch event may be a while."""


class History(Protocol):
    """Where rows go; writing happens elsewhere and delays nobody."""

    def submit(self, rows: list[TrainingRun]) -> None:
        """Take the rows to be written."""


class Reconciler:
    """Brings the cluster in line with one task at a time. Holds no state between calls."""

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

    async def reconcile(self, namespace: str, name: str) -> None:
        """Do what the task needs now.

        Raises
        ------
        ClusterError
            When a request failed and the task has to be looked at again.
        """
        observed = self._view.observe(namespace, name)
        if observed is None or observed.task["metadata"].get("deletionTimestamp"):
            return  # its Job goes with it: the garbage collector follows the owner reference
        task = self._parse(observed.task)
        if task is None:
            await self._refuse_unreadable(observed.task)
            return
        attempts = attempts_of(observed.pods)
        if task.status is not None and task.status.finished_at is not None:
            await self._repair_report(task, attempts)
            self._history.submit(rows_of(task, task.status, attempts))
            await self._clean_up(task, observed.job)
            return
        if task.metadata.namespace not in self._settings.namespaces:
            await self._write(task, conditions.refused(task, self._unprepared(task), self._clock()), attempts)
            return

        job = observed.job
        if job is None:
            if conditions.has_trained(task.status) and await self._is_gone(task):
                await self._write(task, conditions.job_deleted(task, attempts, self._clock()), attempts)
                return
            # The task must name its Job before a trainer speaks: the admission policy knows the pod by it.
            task = await self._write(task, conditions.status_of(task, None, attempts, self._clock()), attempts)
            try:
                job = await self._create_job(task)
            except ClusterError as error:
                if not error.refused:
                    raise
                await self._write(
                    task,
                    conditions.refused(
                        task, Cause("JobRefused", f"The API server refuses the Job: {error}"), self._clock()
                    ),
                    attempts,
                )
                raise
            if job is None:
                await self._write(task, conditions.refused(task, self._name_conflict(task), self._clock()), attempts)
                return
        await self._suspend_or_resume(task, job)
        status = conditions.status_of(task, job, attempts, self._clock())
        if status.finished_at is not None:
            await self._repair_report(task, attempts)
        await self._write(task, status, attempts)

    def _parse(self, body: Object) -> TrainingTask | None:
        try:
            return TrainingTask.model_validate(body)
        except ValidationError:
            pass
        try:
            # A status that a person has spoilt is rebuilt; what the cluster shows is the truth.
            return TrainingTask.model_validate({**body, "status": None})
        except ValidationError:
            return None

    async def _refuse_unreadable(self, body: Object) -> None:
        """Say why a spec cannot be read: the schema of an older or newer release let it in."""
        metadata = body["metadata"]
        try:
            TrainingTask.model_validate({**body, "status": None})
        except ValidationError as error:
            log.warning(
                "%s/%s has an invalid spec: %s", metadata["namespace"], metadata["name"], describe_errors(error)
            )
            now = self._clock()
            condition = {
                "type": "Accepted",
                "status": "False",
                "reason": "InvalidSpec",
                "message": describe_errors(error)[:2048],
                "lastTransitionTime": now.isoformat(),
            }
            known = (body.get("status") or {}).get("conditions") or []
            if any(old.get("reason") == "InvalidSpec" and old.get("message") == condition["message"] for old in known):
                return
            status = {"state": "Pending", "reason": "InvalidSpec", "conditions": [condition]}
            await self._apply(metadata["namespace"], metadata["name"], metadata["uid"], status)

    def _unprepared(self, task: TrainingTask) -> Cause:
        prepared = ", ".join(self._settings.namespaces) or "none"
        return Cause(
            "NamespaceNotPrepared",
            f"Namespace {task.metadata.namespace!r} is not prepared for training (prepared: {prepared}): "
            "ask the cluster's admin to add it to trainer.namespaces of the Helm release.",
        )

    def _name_conflict(self, task: TrainingTask) -> Cause:
        return Cause(
            "NameConflict",
            f"Job {job_name(task)!r} exists and does not belong to this task: delete it, or give the task another name.",
        )

    async def _create_job(self, task: TrainingTask) -> Object | None:
        """Create the task's Job, or adopt it when an earlier try did; None when the name is somebody else's."""
        job = build_job(task, self._settings)
        try:
            created = await self._cluster.create_job(job)
        except ClusterError as error:
            if not error.conflict:
                raise
        else:
            self._view.wrote(created)
            return created
        existing = await self._cluster.get_job(task.metadata.namespace, job["metadata"]["name"])
        owners = existing["metadata"].get("ownerReferences") or []
        return existing if any(owner.get("uid") == task.metadata.uid for owner in owners) else None

    async def _is_gone(self, task: TrainingTask) -> bool:
        """Ask the API server whether the Job is really gone: a watch may lag behind."""
        try:
            await self._cluster.get_job(task.metadata.namespace, job_name(task))
        except ClusterError as error:
            if error.not_found:
                return True
            raise
        # It exists, so its watch event is on the way and brings the task back here.
        raise ClusterError(0, "the Job exists but has not been seen by the watch yet")

    async def _suspend_or_resume(self, task: TrainingTask, job: Object) -> None:
        wanted = task.spec.run_policy.suspend
        if (
            not conditions.job_conditions(job).keys() & {"Complete", "Failed"}
            and bool(job["spec"].get("suspend", False)) != wanted
        ):
            self._view.wrote(
                await self._cluster.patch_job(
                    task.metadata.namespace, job["metadata"]["name"], {"spec": {"suspend": wanted}}
                )
            )

    async def _clean_up(self, task: TrainingTask, job: Object | None) -> None:
        """Hand the finished Job to the TTL controller, only now that its end is on record."""
        ttl = task.spec.run_policy.ttl_seconds_after_finished
        if job is not None and job["spec"].get("ttlSecondsAfterFinished") != ttl:
            patch = {"spec": {"ttlSecondsAfterFinished": ttl}}
            self._view.wrote(await self._cluster.patch_job(task.metadata.namespace, job["metadata"]["name"], patch))

    async def _repair_report(self, task: TrainingTask, attempts: list[Attempt]) -> None:
        """Store the trainer's last words for it, when the API server was away as it said them."""
        report = dict(attempts[-1].report) if attempts else {}
        if "finishTime" not in report:
            return
        stored = task.status.training if task.status else None
        if stored is not None and stored.finish_time is not None and stored.attempt >= attempts[-1].number:
            return
        await self._apply(
            task.metadata.namespace,
            task.metadata.name,
            task.metadata.uid or "",
            {"training": report},
            manager=names.TRAINER_FIELD_MANAGER,
        )

    async def _write(self, task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> TrainingTask:
        """Store `status` if it says anything new, tell of trouble, pass the rows on; return the task as it is now."""
        before = task.status
        new = status.to_json()
        old = before.model_copy(update={"training": None}).to_json() if before else {}
        if new != old:
            await self._apply(task.metadata.namespace, task.metadata.name, task.metadata.uid or "", new)
            for event in events.warnings_for(task, conditions.transitions(before, status), self._clock()):
                await self._cluster.create_event(event)
        task = task.model_copy(
            update={"status": status.model_copy(update={"training": before.training if before else None})}
        )
        self._history.submit(rows_of(task, status, attempts))
        return task

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
            # Deleted, or deleted and created again, since it was observed: that one's events bring us back.
            if not (error.not_found or error.conflict):
                raise
