"""The requests that a reconcile may make: the seam behind which tests put an API server in memory."""

from typing import Protocol

from trainingtask_operator.kube_objects import Object


class Cluster(Protocol):
    """The API server as the reconciler uses it. Every method raises ClusterError."""

    async def apply_status(self, namespace: str, name: str, uid: str, status: Object, *, manager: str) -> Object:
        """Apply `status` under the field manager and return the task; raise a 409 when the task has another uid."""

    async def get_task(self, namespace: str, name: str) -> Object:
        """Return the task."""

    async def delete_task(self, namespace: str, name: str, uid: str, version: str) -> None:
        """Delete the task, and its Job after it; raise a 409 when it has another uid or resource version."""

    async def get_workload(self, kind: str, namespace: str, name: str) -> Object:
        """Return the Job or JobSet."""

    async def create_workload(self, workload: Object) -> Object:
        """Create the Job or JobSet and return it."""

    async def patch_workload(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        """Merge `patch` into the Job or JobSet and return it."""

    async def delete_workload(self, kind: str, namespace: str, name: str) -> None:
        """Delete the Job or JobSet, and its pods after it."""

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete the pod; raise a 409 when it has another uid."""

    async def patch_kueue_workload(self, namespace: str, name: str, patch: Object) -> None:
        """Merge `patch` into Kueue's Workload of a Job or JobSet."""

    async def get_claim(self, namespace: str, name: str) -> Object:
        """Return the PersistentVolumeClaim."""

    async def list_pods(self, namespace: str, task_uid: str) -> list[Object]:
        """Return the live pods of a task."""

    async def is_namespace_terminating(self, namespace: str) -> bool:
        """Return whether the namespace is being deleted."""

    async def create_event(self, event: Object) -> None:
        """Create an Event (events.k8s.io/v1)."""
