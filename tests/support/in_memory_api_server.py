"""An API server in memory, for the reconciler's logic and for faults that a real one cannot inject.

It implements server-side apply by field manager, 409 for an existing name and for a wrong uid, 404, and growing
resource versions. `before_each` may raise to lose a request, `after_each` to lose a response.
"""

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from trainingtask_api import names
from trainingtask_history.tables import RunEvent, TrainingRun
from trainingtask_operator.cache.assume_cache import Observed
from trainingtask_operator.cache.cached_fields import trim_jobset
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.kube_objects import KubeEvent, Object

NOW = datetime(2026, 1, 1, 0, 2, tzinfo=UTC)


class FakeCluster:
    """`Cluster` and `AssumeCache` over the same objects: a watch that never lags."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, str], Object] = {}
        self.jobs: dict[tuple[str, str], Object] = {}  # and JobSets
        self.pods: dict[str, list[Object]] = {}
        self.kube_events: dict[str, KubeEvent] = {}
        self.claims: dict[tuple[str, str], list[str]] = {}  # access modes
        self.serves_jobsets = True
        self.workloads: dict[str, Object] = {}  # uid of the Job -> Kueue's Workload, as the cache holds it
        self.terminating_namespaces: set[str] = set()
        self.events: list[Object] = []
        self.requests: list[str] = []
        self.before_each: Callable[[str], None] = lambda _: None
        self.after_each: Callable[[str], None] = lambda _: None
        self._version = 0
        self._applied: dict[str, dict[str, Object]] = {}  # uid -> manager -> status

    def add_task(self, manifest: Mapping[str, Any], created: str = "2026-01-01T00:00:00Z") -> Object:
        task = copy.deepcopy(dict(manifest))
        task["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": created}
        self._touch(task)
        self.tasks[task["metadata"]["namespace"], task["metadata"]["name"]] = task
        return task

    def find_job(self, task: Object) -> Object | None:
        uid = task["metadata"]["uid"]
        return next(
            (
                job
                for job in self.jobs.values()
                if (job["metadata"].get("labels") or {}).get(names.TASK_UID_LABEL) == uid
            ),
            None,
        )

    # AssumeCache

    def observe(self, namespace: str, name: str) -> Observed | None:
        task = self.tasks.get((namespace, name))
        if task is None:
            return None
        job = copy.deepcopy(self.find_job(task))
        owners = frozenset([job["metadata"]["uid"]] if job else [])  # a JobSet stands for its Job
        if job is not None and job["kind"] == names.JOBSET_KIND:
            job = trim_jobset(job)
        pods = copy.deepcopy(self.pods.get(task["metadata"]["uid"], []))
        workload = copy.deepcopy(self.workloads.get(job["metadata"]["uid"])) if job else None
        return Observed(copy.deepcopy(task), job, pods, dict(self.kube_events), owners, workload)

    def assume(self, written: Object) -> None:
        """The fake's watch never lags."""

    # Cluster

    async def apply_status(self, namespace: str, name: str, uid: str, status: Object, *, manager: str) -> Object:
        self.receive("apply status")
        task = self.tasks.get((namespace, name))
        if task is None:
            raise ClusterError(404, "not found")
        if task["metadata"]["uid"] != uid:
            raise ClusterError(409, "the UID in the precondition does not match")
        managers = self._applied.setdefault(uid, {})
        managers[manager] = copy.deepcopy(status)
        task["status"] = {field: value for applied in managers.values() for field, value in applied.items()}
        self._touch(task)
        return self.respond("apply status", task)

    async def get_workload(self, kind: str, namespace: str, name: str) -> Object:
        self._receive_about(kind, "get")
        if (namespace, name) not in self.jobs:
            raise ClusterError(404, f'{kind} "{name}" not found')
        return self.respond(f"get {kind.lower()}", self.jobs[namespace, name])

    async def create_workload(self, job: Object) -> Object:
        self._receive_about(job["kind"], "create")
        key = (job["metadata"]["namespace"], job["metadata"]["name"])
        if key in self.jobs:
            raise ClusterError(409, "already exists")
        created = copy.deepcopy(job)
        created["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:01Z"}
        created["status"] = {}
        self._touch(created)
        self.jobs[key] = created
        return self.respond(f"create {job['kind'].lower()}", created)

    async def patch_workload(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        self._receive_about(kind, "patch")
        if (namespace, name) not in self.jobs:
            raise ClusterError(404, f'{kind} "{name}" not found')
        job = self.jobs[namespace, name]
        self._merge(job, patch)
        return self.respond(f"patch {kind.lower()}", job)

    async def delete_workload(self, kind: str, namespace: str, name: str) -> None:
        self._receive_about(kind, "delete")
        if self.jobs.pop((namespace, name), None) is None:
            raise ClusterError(404, f'{kind} "{name}" not found')
        self.respond(f"delete {kind.lower()}", {})

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        self.receive("delete pod")
        pods = {pod["metadata"]["uid"]: pod for pods in self.pods.values() for pod in pods}
        if uid not in pods:
            raise ClusterError(404, f'pods "{name}" not found')
        pods[uid]["metadata"]["deletionTimestamp"] = "2026-01-01T00:03:00Z"  # and its kubelet ends it
        self.respond("delete pod", {})

    async def get_claim(self, namespace: str, name: str) -> Object:
        self.receive("get claim")
        if (namespace, name) not in self.claims:
            raise ClusterError(404, f'persistentvolumeclaims "{name}" not found')
        return {"metadata": {"name": name}, "spec": {"accessModes": self.claims[namespace, name]}}

    async def is_namespace_terminating(self, namespace: str) -> bool:
        self.receive("get namespace")
        return namespace in self.terminating_namespaces

    async def create_event(self, event: Object) -> None:
        self.receive("create event")
        self.events.append(copy.deepcopy(event))
        self.respond("create event", event)

    async def get_task(self, namespace: str, name: str) -> Object:
        self.receive("get task")
        if (namespace, name) not in self.tasks:
            raise ClusterError(404, f'trainingtasks.trainingtask.dev "{name}" not found')
        return self.respond("get task", self.tasks[namespace, name])

    async def delete_task(self, namespace: str, name: str, uid: str, version: str) -> None:
        self.receive("delete task")
        task = self.tasks.get((namespace, name))
        if task is None:
            raise ClusterError(404, f'trainingtasks.trainingtask.dev "{name}" not found')
        if (task["metadata"]["uid"], task["metadata"]["resourceVersion"]) != (uid, version):
            raise ClusterError(409, "the precondition does not match")
        del self.tasks[namespace, name]
        self.respond("delete task", {})

    async def list_pods(self, namespace: str, task_uid: str) -> list[Object]:
        self.receive("list pods")
        owners = [job["metadata"]["uid"] for job in self.jobs.values()]
        return [_untrim(pod, owners) for pod in self.pods.get(task_uid, [])]

    async def patch_kueue_workload(self, namespace: str, name: str, patch: Object) -> None:
        self.receive("patch workload")
        (workload,) = (w for w in self.workloads.values() if w["metadata"]["name"] == name)
        self._merge(workload, patch)

    def change(self, item: Object, patch: Object) -> None:
        """Change an object as another writer does."""
        for section, fields in patch.items():
            item[section] |= fields
        self._touch(item)

    def _merge(self, item: Object, patch: Object) -> None:
        version = item["metadata"]["resourceVersion"]
        if patch.get("metadata", {}).get("resourceVersion", version) != version:
            raise ClusterError(409, "the object has been modified")
        self.change(item, patch)

    def _receive_about(self, kind: str, verb: str) -> None:
        self.receive(f"{verb} {kind.lower()}")
        if kind == names.JOBSET_KIND and not self.serves_jobsets:
            raise ClusterError(404, "the server could not find the requested resource")

    # Faults

    def receive(self, call: str) -> None:
        self.before_each(call)
        self.requests.append(call)

    def respond(self, call: str, body: Object) -> Object:
        self.after_each(call)
        return copy.deepcopy(body)

    def _touch(self, item: Object) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)


class FakeRecorder:
    """A `Recorder` that keeps the latest version of each row."""

    has_history = True

    def __init__(self) -> None:
        self.rows_by_id: dict[Any, TrainingRun] = {}
        self.log_pods: dict[uuid.UUID, str] = {}
        self.events: dict[tuple[uuid.UUID, str, str], RunEvent] = {}
        self.is_unavailable = False

    def submit(
        self,
        rows: list[TrainingRun],
        log_pods: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        self.rows_by_id |= {row.id: row for row in rows}
        self.log_pods |= log_pods
        self.events |= {(event.run_id, event.type, event.reason): event for event in events}

    def is_recorded(self, rows: list[TrainingRun]) -> bool:
        return not self.is_unavailable

    @property
    def rows(self) -> list[TrainingRun]:
        return sorted(self.rows_by_id.values(), key=lambda row: row.attempt)


def _untrim(pod: Object, owners: Sequence[str]) -> Object:
    """Return a trimmed pod as the API server sends it, owned by a Job unless it says by whom."""
    references = [{"uid": uid, "controller": True} for uid in owners]
    metadata = {"namespace": "default", "resourceVersion": "1", "ownerReferences": references, **pod["metadata"]}
    container = {"name": names.TRAINER_CONTAINER, "image": pod["spec"]["image"]}
    container["resources"] = {"limits": {"memory": pod["spec"]["memoryLimit"]}}
    sidecars = [{"name": name, "state": running()} for name in pod["status"]["sidecars"]]
    status = {**pod["status"], "containerStatuses": [*pod["status"]["containerStatuses"], *sidecars]}
    spec = {"nodeName": pod["spec"]["nodeName"], "containers": [container]}
    return copy.deepcopy({**pod, "metadata": metadata, "spec": spec, "status": status})


def pod(
    task: Object,
    *,
    phase: str = "Pending",
    attempt: int = 1,
    state: Object | None = None,
    conditions: list[Object] | None = None,
    created: str = "2026-01-01T00:00:02Z",
    sidecars: Sequence[str] = (),
) -> Object:
    """Return a pod of the task's Job as the cache holds it."""
    container = [{"name": names.TRAINER_CONTAINER, "state": state}] if state else []
    name = f"{task['metadata']['name']}-0-{created[-6:-4]}{created[-3:-1]}"
    return {
        "metadata": {
            "name": name,
            "namespace": task["metadata"]["namespace"],
            "uid": str(uuid.uuid5(uuid.UUID(task["metadata"]["uid"]), name)),
            "creationTimestamp": created,
            "labels": {names.TASK_UID_LABEL: task["metadata"]["uid"]},
            "annotations": {names.FAILURE_COUNT_ANNOTATION: str(attempt - 1)},
        },
        "spec": {"nodeName": "node-1", "image": "trainer:test", "memoryLimit": "2Gi"},
        "status": {
            "phase": phase,
            "containerStatuses": container,
            "conditions": conditions or [],
            "sidecars": list(sidecars),
        },
    }


def kueue_workload(queue: str = "team-a", **conditions: Object) -> Object:
    """Return Kueue's Workload of a Job as the cache holds it, with conditions by their type."""
    return {
        "metadata": {
            "name": "job-w",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:02Z",
            "annotations": {},
        },
        "spec": {"queueName": queue, "active": True},
        "status": {"conditions": [{"type": kind, **c} for kind, c in conditions.items()], "admissionChecks": []},
    }


def running(at: str = "2026-01-01T00:00:03Z") -> Object:
    return {"running": {"startedAt": at}}


def terminated(code: int, message: str = "", reason: str = "Error") -> Object:
    times = {"startedAt": "2026-01-01T00:00:03Z", "finishedAt": "2026-01-01T00:01:03Z"}
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}


def job_condition(kind: str, reason: str = "", message: str = "") -> Object:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:01:04Z",
    }
