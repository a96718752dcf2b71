"""The life of a task, in one function from top to bottom: observe, plan, act, write the status at most once more."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import ValidationError

from trainingtask_api import Condition, TrainingTask, TrainingTaskStatus, describe_errors, names
from trainingtask_api.run import TrainingRun
from trainingtask_operator import conditions, events
from trainingtask_operator.attempts import Attempt, Cause, attempts_of
from trainingtask_operator.cluster import Cluster, ClusterError
from trainingtask_operator.history import rows_of
from trainingtask_operator.jobs import build_job, controlled_by, job_name, labels_of
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


class TaskGoneError(Exception):
    """The task was deleted, or deleted and created again, since it was observed: that one's events bring us back."""


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
        task = parse(observed.task)
        if task is None:
            await self._refuse_unreadable(observed.task)
            return
        attempts = attempts_of(observed.pods)
        try:
            await self._bring_in_line(task, observed, attempts)
        except TaskGoneError:
            log.info("%s/%s was deleted meanwhile", namespace, name)

    async def _bring_in_line(self, task: TrainingTask, observed: Observed, attempts: list[Attempt]) -> None:
        if task.status is not None and task.status.finished_at is not None:
            task = await self._repair_report(task, attempts)
            self._history.submit(rows_of(task, task.status or TrainingTaskStatus(), attempts))
            await self._clean_up(task, observed.job)
            return

        job = observed.job or await self._find_job(task)
        if conditions.has_trained(task.status) and (job is None or conditions.is_deleted(job)):
            await self._write(task, conditions.job_deleted(task, attempts, self._clock()), attempts)
            return
        if job is None:
            obstacle = self._obstacle(task)
            if obstacle is not None:
                await self._write(task, conditions.refused(task, obstacle, self._clock()), attempts)
                return
            # The task must name its Job before a trainer speaks: the admission policy knows the pod by it.
            if task.status is None or task.status.job_name != job_name(task):
                task = await self._write(task, conditions.status_of(task, None, attempts, self._clock()), attempts)
            try:
                job = await self._create_job(task)
            except ClusterError as error:
                if error.refused:
                    cause = Cause("JobRefused", f"The API server refuses the Job: {error}")
                    await self._write(task, conditions.refused(task, cause, self._clock()), attempts)
                raise
            if job is None:
                await self._write(task, conditions.refused(task, name_conflict(task), self._clock()), attempts)
                return
        await self._suspend_or_resume(task, job)
        status = conditions.status_of(task, job, attempts, self._clock())
        if status.finished_at is not None:
            task = await self._repair_report(task, attempts)
        await self._write(task, status, attempts)

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
        known = conditions_in(body)
        if any(old.get("reason") == "InvalidSpec" and old.get("message") == message for old in known) or has_ended(
            body
        ):
            return
        condition = {
            "type": "Accepted",
            "status": "False",
            "reason": "InvalidSpec",
            "message": message,
            "lastTransitionTime": self._clock().isoformat(),
        }
        status = {field: value for field, value in (body.get("status") or {}).items() if field != "training"}
        status |= {
            "reason": "InvalidSpec",
            "conditions": [*(old for old in known if old.get("type") != "Accepted"), condition],
        }
        with contextlib.suppress(TaskGoneError):
            await self._apply(metadata["namespace"], metadata["name"], metadata["uid"], {"state": "Pending"} | status)

    def _obstacle(self, task: TrainingTask) -> Cause | None:
        """Return why this cluster's settings do not let the task train, None when they do."""
        if task.metadata.namespace not in self._settings.namespaces:
            return self._unprepared(task)
        if task.spec.device not in self._settings.devices:
            return Cause(
                "DeviceNotOffered",
                f"This cluster offers no device {task.spec.device.value!r}: ask its admin to set trainer.devices.{task.spec.device.value}.",
            )
        return None

    def _unprepared(self, task: TrainingTask) -> Cause:
        prepared = ", ".join(self._settings.namespaces) or "none"
        return Cause(
            "NamespaceNotPrepared",
            f"Namespace {task.metadata.namespace!r} is not prepared for training (prepared: {prepared}): "
            "ask the cluster's admin to add it to trainer.namespaces of the Helm release.",
        )

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
        if job is None or job["spec"].get("ttlSecondsAfterFinished") == ttl:
            return
        patch = {"spec": {"ttlSecondsAfterFinished": ttl}}
        try:
            self._view.wrote(await self._cluster.patch_job(task.metadata.namespace, job["metadata"]["name"], patch))
        except ClusterError as error:
            if not error.not_found:  # cleaned up already
                raise

    async def _repair_report(self, task: TrainingTask, attempts: list[Attempt]) -> TrainingTask:
        """Store the trainer's last words for it, when the API server was away as it said them; return the task with them."""
        report = attempts[-1].report if attempts else None
        stored = task.status.training if task.status else None
        if report is None or report.finish_time is None:
            return task
        if stored is not None and stored.finish_time is not None and stored.finish_time >= report.finish_time:
            return task
        metadata = task.metadata
        words = {"training": report.to_json()}
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
        status = (task.status or TrainingTaskStatus()).model_copy(update={"training": report})
        return task.model_copy(update={"status": status})

    async def _write(self, task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> TrainingTask:
        """Store `status` if it says anything new, tell of trouble, pass the rows on; return the task as it is now."""
        before = task.status
        new = status.to_json()
        old = before.model_copy(update={"training": None}).to_json() if before else {}
        if new != old:
            await self._apply(task.metadata.namespace, task.metadata.name, task.metadata.uid or "", new)
            await self._warn(task, conditions.transitions(before, status))
        task = task.model_copy(
            update={"status": status.model_copy(update={"training": before.training if before else None})}
        )
        self._history.submit(rows_of(task, status, attempts))
        return task

    async def _warn(self, task: TrainingTask, transitions: list[Condition]) -> None:
        for event in events.warnings_for(task, transitions, self._clock()):
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
            if error.not_found or error.conflict:
                raise TaskGoneError from error
            raise


def parse(body: Object) -> TrainingTask | None:
    """Return the task, without what of its status cannot be read; None when its spec cannot be read.

    A status may be spoilt by a person, or written by another release. What the cluster shows is the truth and rebuilds
    it, except for its end: a task that has ended must not train again because its status is not understood.
    """
    status = body.get("status") or None
    readable = (
        {field: value for field, value in status.items() if field != "training"} if isinstance(status, dict) else None
    )
    ended = (
        {"conditions": [c for c in conditions_in(body) if c.get("type") in ("Complete", "Failed")]}
        if has_ended(body)
        else None
    )
    for attempt in (status, readable, ended):
        with contextlib.suppress(ValidationError):
            return TrainingTask.model_validate({**body, "status": attempt})
    return None


def conditions_in(body: Object) -> list[Object]:
    """Return the conditions of a raw object, as far as they are conditions at all."""
    status = body.get("status")
    found = status.get("conditions") if isinstance(status, Mapping) else None
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def has_ended(body: Object) -> bool:
    """Tell whether a raw task is Complete or Failed."""
    return any(
        item.get("type") in ("Complete", "Failed") and item.get("status") == "True" for item in conditions_in(body)
    )


def name_conflict(task: TrainingTask) -> Cause:
    """Return what to say when the name of the task's Job is taken."""
    return Cause(
        "NameConflict",
        f"Job {job_name(task)!r} exists and does not belong to this task: delete it, or give the task another name.",
    )
