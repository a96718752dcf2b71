"""Requests on the Job of a task: create, adopt, suspend and resume, expire, delete."""

from collections.abc import Callable

from trainingtask_api import TrainingTask
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.protocol import Cluster
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.job_builder import build_job, build_job_name, build_labels
from trainingtask_operator.controller.preconditions import explain_missing_workload, explain_rejected_workload_patch
from trainingtask_operator.kube_objects import Object, is_controlled_by, is_finished
from trainingtask_operator.settings import Settings


class JobLifecycle:
    """The requests, each with its result assumed in the cache."""

    def __init__(self, cluster: Cluster, assume: Callable[[Object], None], settings: Settings) -> None:
        self._cluster = cluster
        self._assume = assume
        self._settings = settings

    async def create(self, task: TrainingTask) -> Object | None:
        """Create the task's Job, or adopt it when an earlier try did; return None when another owner's has the name."""
        try:
            created = await self._cluster.create_job(build_job(task, self._settings))
        except ClusterError as error:
            if not error.is_conflict:
                raise
            return await self._adopt(task)
        self._assume(created)
        return created

    async def find(self, task: TrainingTask) -> Object | None:
        """Return the live Job of the task: the watch may lag behind, or the labels by which it finds the Job be gone."""
        try:
            return await self._adopt(task)
        except ClusterError as error:
            if error.is_not_found:
                return None
            raise

    async def _adopt(self, task: TrainingTask) -> Object | None:
        """Return the Job of this name, with its labels restored; None if the task does not control it."""
        job = await self._cluster.get_job(task.metadata.namespace, build_job_name(task))
        if not is_controlled_by(job, task.metadata.uid or ""):
            return None
        labels = build_labels(task)
        if (job["metadata"].get("labels") or {}).items() >= labels.items():
            return job
        return await self._patch(job, {"metadata": {"labels": labels}})

    async def sync_suspension(self, task: TrainingTask, job: Object) -> Cause | None:
        """Suspend or resume the Job as the task's spec requires; return why that is not possible in a queue."""
        if is_finished(job):
            return None
        suspend, is_suspended = task.spec.run_policy.suspend, bool(job["spec"].get("suspend", False))
        if task.spec.run_policy.queue_name is None:
            if is_suspended != suspend:
                await self._patch(job, {"spec": {"suspend": suspend}})
            return None
        reported = task.status is not None and task.status.is_true("Suspended")
        if reported == suspend and (is_suspended or not suspend):
            return None
        # Of a queue's Jobs the Workload is deactivated: Kueue resumes a Job that was suspended in any other way.
        metadata = job["metadata"]
        try:
            found = await self._cluster.set_workload_active(task.metadata.namespace, metadata["uid"], not suspend)
        except ClusterError as error:
            if not error.is_rejected:
                raise
            return explain_rejected_workload_patch(task, error)
        return None if found else explain_missing_workload(task)

    async def set_ttl(self, job: Object, seconds: int | None) -> None:
        """Hand a finished Job to the TTL controller, unless it is deleted already."""
        try:
            await self._patch(job, {"spec": {"ttlSecondsAfterFinished": seconds}})
        except ClusterError as error:
            if not error.is_not_found:
                raise

    async def delete(self, job: Object) -> None:
        """Delete the Job, unless it is deleted already."""
        try:
            await self._cluster.delete_job(job["metadata"]["namespace"], job["metadata"]["name"])
        except ClusterError as error:
            if not error.is_not_found:
                raise

    async def _patch(self, job: Object, patch: Object) -> Object:
        patched = await self._cluster.patch_job(job["metadata"]["namespace"], job["metadata"]["name"], patch)
        self._assume(patched)
        return patched
