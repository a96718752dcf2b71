"""Requests on the Job or JobSet of a task: create, adopt, suspend and resume, expire, delete; also of its pods, and of an expired task."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainingtask_api import TrainingTask, names
from trainingtask_operator.cache.cached_fields import trim_jobset
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.protocol import Cluster
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.kueue import (
    build_suspension_mark,
    build_workload_patch,
    explain_disabled_kueue,
    explain_missing_workload,
    explain_rejected_workload_patch,
    explain_resumed_job,
    has_suspension_mark,
    is_queued,
    is_suspended_by_operator,
)
from trainingtask_operator.controller.pod_builder import build_labels
from trainingtask_operator.controller.shared_claims import explain_unshared_claim, list_claims
from trainingtask_operator.controller.workload_builder import build_workload, build_workload_name, get_workload_kind
from trainingtask_operator.kube_objects import Object, is_controlled_by, is_finished
from trainingtask_operator.settings import Settings

log = logging.getLogger(__name__)


class JobLifecycle:
    """The requests, each with its result assumed in the cache. "Job" stands for either kind; a JobSet reads like a Job."""

    def __init__(self, cluster: Cluster, assume: Callable[[Object], None], settings: Settings) -> None:
        self._cluster = cluster
        self._assume = assume
        self._settings = settings

    async def create(self, task: TrainingTask) -> Object | None:
        """Create the task's Job, or adopt it when an earlier try did; return None when another owner's has the name."""
        try:
            created = await self._cluster.create_workload(build_workload(task, self._settings))
        except ClusterError as error:
            if not error.is_conflict:
                raise
            return await self._adopt(task)
        self._assume(created)
        return _read_as_job(created)

    async def find_unshared_claim(self, task: TrainingTask) -> Cause | None:
        """Return which claim of a task for several nodes can be mounted on one alone; one that does not exist is waited for."""
        if task.spec.node_count == 1:
            return None
        for claim, is_read_only in list_claims(build_workload(task, self._settings)):
            try:
                found = await self._cluster.get_claim(task.metadata.namespace, claim)
            except ClusterError as error:
                if not error.is_not_found:
                    raise
                continue
            if cause := explain_unshared_claim(task, found, is_read_only=is_read_only):
                return cause
        return None

    async def find(self, task: TrainingTask) -> Object | None:
        """Return the live Job of the task: the watch may lag behind, or the labels by which it finds the Job be gone."""
        try:
            return await self._adopt(task)
        except ClusterError as error:
            if error.is_not_found and not (error.is_not_served and task.spec.node_count > 1):
                return None
            raise

    async def _adopt(self, task: TrainingTask) -> Object | None:
        """Return the Job of this name, with its labels restored; None if the task does not control it."""
        kind, name = get_workload_kind(task), build_workload_name(task)
        job = await self._cluster.get_workload(kind, task.metadata.namespace, name)
        if not is_controlled_by(job, task.metadata.uid or ""):
            return None
        labels = build_labels(task)
        if (job["metadata"].get("labels") or {}).items() >= labels.items():
            return _read_as_job(job)
        return await self._patch(job, {"metadata": {"labels": labels}})

    async def sync_suspension(
        self, task: TrainingTask, job: Object, workload: Object | None
    ) -> tuple[Object, Object | None, Cause | None]:
        """Suspend or resume the task as its spec requires; return its Job and Workload after that, and why it is not possible.

        What somebody else has suspended is left alone: Kueue, or a person, would suspend it again.
        """
        suspend, is_suspended = task.spec.run_policy.suspend, bool(job["spec"].get("suspend"))
        if is_finished(job):
            return job, workload, None
        if is_queued(task, job, workload):
            return job, *await self._sync_workload(task, job, workload)
        if suspend and not is_suspended and has_suspension_mark(job):
            return job, workload, explain_resumed_job(task)
        is_own = has_suspension_mark(job) or (is_suspended and is_suspended_by_operator(task, job))
        if is_own if not suspend else not is_suspended:
            job = await self._patch(
                job, {"metadata": build_suspension_mark(job, suspend), "spec": {"suspend": suspend}}
            )
        return job, workload, None

    async def _sync_workload(
        self, task: TrainingTask, job: Object, workload: Object | None
    ) -> tuple[Object | None, Cause | None]:
        """Deactivate or activate the Workload of a queue's Job: Kueue resumes one that was suspended in any other way."""
        suspend = task.spec.run_policy.suspend
        if workload is None:
            reported = task.status is not None and task.status.is_true("Suspended")
            if reported == suspend and (job["spec"].get("suspend") or not suspend):
                return None, None
            explain = explain_missing_workload if self._settings.kueue.enabled else explain_disabled_kueue
            return None, explain(task)
        patch = build_workload_patch(task, workload)
        if patch is None:
            return workload, None
        try:
            await self._cluster.patch_kueue_workload(task.metadata.namespace, workload["metadata"]["name"], patch)
        except ClusterError as error:
            if not error.is_rejected:
                raise
            return workload, explain_rejected_workload_patch(task, error)
        return {**workload, "spec": workload["spec"] | patch["spec"]}, None

    async def set_ttl(self, job: Object, seconds: int | None) -> None:
        """Hand a finished Job to the TTL controller, unless it is deleted already."""
        with _accept_refusal(job):
            await self._patch(job, {"spec": {"ttlSecondsAfterFinished": seconds}})

    async def delete(self, job: Object) -> None:
        """Delete the Job, unless it is deleted already."""
        metadata = job["metadata"]
        with _accept_refusal(job):
            await self._cluster.delete_workload(job["kind"], metadata["namespace"], metadata["name"])

    async def delete_pod(self, pod: Object) -> None:
        """Delete the pod, unless it is deleted already."""
        metadata = pod["metadata"]
        with _accept_refusal(pod, is_replaced=True):
            await self._cluster.delete_pod(metadata["namespace"], metadata["name"], metadata["uid"])

    async def delete_task(self, task: Object) -> None:
        """Delete the expired task, unless it has changed since it was observed: its author may want to keep it."""
        metadata = task["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        log.info("%s/%s is deleted, as its runPolicy asks", namespace, name)
        with _accept_refusal(task):
            await self._cluster.delete_task(namespace, name, metadata["uid"], metadata["resourceVersion"])

    async def _patch(self, job: Object, patch: Object) -> Object:
        metadata = job["metadata"]
        patched = await self._cluster.patch_workload(job["kind"], metadata["namespace"], metadata["name"], patch)
        self._assume(patched)
        return _read_as_job(patched)


@contextmanager
def _accept_refusal(item: Object, *, is_replaced: bool = False) -> Iterator[None]:
    """Go on when the object is gone, also replaced by another of its name, or when the request is forbidden for good.

    The operator has these rights in the namespaces of its settings alone, and tasks outlive a change of those.
    """
    try:
        yield
    except ClusterError as error:
        if error.is_rejected:
            namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
            question = "is its namespace among trainer.namespaces of the Helm chart?"
            log.warning("%s/%s stays as it is: %s %s", namespace, name, question, error)
        elif not error.is_not_found and not (is_replaced and error.is_conflict):
            raise


def _read_as_job(workload: Object) -> Object:
    """Return a Job as it is, and a JobSet with the fields and conditions of a Job, as the cache has it."""
    return trim_jobset(workload) if workload["kind"] == names.JOBSET_KIND else workload
