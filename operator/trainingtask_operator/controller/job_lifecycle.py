"""Requests on the Job or JobSet of a task: create, adopt, suspend and resume, expire, delete; also of its pods."""

from collections.abc import Callable

from trainingtask_api import TrainingTask, names
from trainingtask_operator.cache.cached_fields import trim_jobset
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.protocol import Cluster
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.pod_builder import build_labels
from trainingtask_operator.controller.preconditions import explain_missing_workload, explain_rejected_workload_patch
from trainingtask_operator.controller.shared_claims import explain_unshared_claim, list_claims
from trainingtask_operator.controller.workload_builder import build_workload, build_workload_name, get_workload_kind
from trainingtask_operator.kube_objects import Object, is_controlled_by, is_finished
from trainingtask_operator.settings import Settings


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
            await self._cluster.delete_workload(job["kind"], job["metadata"]["namespace"], job["metadata"]["name"])
        except ClusterError as error:
            if not error.is_not_found:
                raise

    async def delete_pod(self, pod: Object) -> None:
        """Delete the pod, unless it is deleted already."""
        metadata = pod["metadata"]
        try:
            await self._cluster.delete_pod(metadata["namespace"], metadata["name"], metadata["uid"])
        except ClusterError as error:
            if not error.is_not_found and not error.is_conflict:
                raise

    async def _patch(self, job: Object, patch: Object) -> Object:
        metadata = job["metadata"]
        patched = await self._cluster.patch_workload(job["kind"], metadata["namespace"], metadata["name"], patch)
        self._assume(patched)
        return _read_as_job(patched)


def _read_as_job(workload: Object) -> Object:
    """Return a Job as it is, and a JobSet with the fields and conditions of a Job, as the cache has it."""
    return trim_jobset(workload) if workload["kind"] == names.JOBSET_KIND else workload
