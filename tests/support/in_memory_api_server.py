"""An API server in memory, for the reconciler's logic and for faults that a real one cannot be asked for.

It keeps what the reconciler relies on: server-side apply by field manager, 409 on a name that is taken and on a
wrong uid, 404, growing resource versions. `before_each` may raise to lose a request, `after_each` to lose a response.
"""

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from trainingtask_api import names
from trainingtask_history.tables import RunEvent, TrainingRun
from trainingtask_operator.client.kubernetes import ClusterError
from trainingtask_operator.controller.diagnosis import Note
from trainingtask_operator.controller.reconciler import Observed

Manifest = dict[str, Any]

NOW = datetime(2026, 1, 1, 0, 2, tzinfo=UTC)


class FakeCluster:
    """`Cluster` and `View` over the same objects: a watch that never lags."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, str], Manifest] = {}
        self.jobs: dict[tuple[str, str], Manifest] = {}
        self.pods: dict[str, list[Manifest]] = {}
        self.notes: dict[str, Note] = {}
        self.workloads: dict[str, bool] = {}  # uid of the Job -> whether Kueue may start it
        self.ending: set[str] = set()
        self.events: list[Manifest] = []
        self.requests: list[str] = []
        self.before_each: Callable[[str], None] = lambda _: None
        self.after_each: Callable[[str], None] = lambda _: None
        self._version = 0
        self._applied: dict[str, dict[str, Manifest]] = {}  # uid -> manager -> status

    def add_task(self, manifest: Mapping[str, Any], created: str = "2026-01-01T00:00:00Z") -> Manifest:
        task = copy.deepcopy(dict(manifest))
        task["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": created}
        self._touch(task)
        self.tasks[task["metadata"]["namespace"], task["metadata"]["name"]] = task
        return task

    def job_of(self, task: Manifest) -> Manifest | None:
        uid = task["metadata"]["uid"]
        return next(
            (
                job
                for job in self.jobs.values()
                if (job["metadata"].get("labels") or {}).get(names.TASK_UID_LABEL) == uid
            ),
            None,
        )

    # View

    def observe(self, namespace: str, name: str) -> Observed | None:
        task = self.tasks.get((namespace, name))
        if task is None:
            return None
        return Observed(
            copy.deepcopy(task),
            copy.deepcopy(self.job_of(task)),
            copy.deepcopy(self.pods.get(task["metadata"]["uid"], [])),
            dict(self.notes),
        )

    def wrote(self, written: Mapping[str, Any]) -> None:
        """The fake's watch is never behind."""

    # Cluster

    async def apply_status(self, namespace: str, name: str, uid: str, status: Manifest, *, manager: str) -> Manifest:
        self.request("apply status")
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

    async def get_job(self, namespace: str, name: str) -> Manifest:
        self.request("get job")
        if (namespace, name) not in self.jobs:
            raise ClusterError(404, "not found")
        return self.respond("get job", self.jobs[namespace, name])

    async def create_job(self, job: Manifest) -> Manifest:
        self.request("create job")
        key = (job["metadata"]["namespace"], job["metadata"]["name"])
        if key in self.jobs:
            raise ClusterError(409, "already exists")
        created = copy.deepcopy(job)
        created["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:01Z"}
        created["status"] = {}
        self._touch(created)
        self.jobs[key] = created
        return self.respond("create job", created)

    async def patch_job(self, namespace: str, name: str, patch: Manifest) -> Manifest:
        self.request("patch job")
        if (namespace, name) not in self.jobs:
            raise ClusterError(404, "not found")
        job = self.jobs[namespace, name]
        for section, fields in patch.items():
            job[section] |= fields
        self._touch(job)
        return self.respond("patch job", job)

    async def delete_job(self, namespace: str, name: str) -> None:
        self.request("delete job")
        if self.jobs.pop((namespace, name), None) is None:
            raise ClusterError(404, "not found")
        self.respond("delete job", {})

    async def is_ending(self, namespace: str) -> bool:
        self.request("get namespace")
        return namespace in self.ending

    async def create_event(self, event: Manifest) -> None:
        self.request("create event")
        self.events.append(copy.deepcopy(event))
        self.respond("create event", event)

    async def get_task(self, namespace: str, name: str) -> Manifest:
        self.request("get task")
        if (namespace, name) not in self.tasks:
            raise ClusterError(404, f'trainingtasks.trainingtask.dev "{name}" not found')
        return self.respond("get task", self.tasks[namespace, name])

    async def pods_of(self, namespace: str, task_uid: str) -> list[Manifest]:
        self.request("list pods")
        return copy.deepcopy(self.pods.get(task_uid, []))

    async def log_tail(self, namespace: str, pod: str) -> str:
        self.request("read log")
        return f"the log of {namespace}/{pod}"

    async def set_workload_active(self, namespace: str, job_uid: str, active: bool) -> bool:
        self.request("patch workload")
        if job_uid not in self.workloads:
            return False
        self.workloads[job_uid] = active
        return True

    async def list_uids(self) -> set[str]:
        self.request("list")
        objects = [*self.tasks.values(), *self.jobs.values(), *(pod for pods in self.pods.values() for pod in pods)]
        return {item["metadata"]["uid"] for item in objects}

    # Faults

    def request(self, what: str) -> None:
        self.before_each(what)
        self.requests.append(what)

    def respond(self, what: str, body: Manifest) -> Manifest:
        self.after_each(what)
        return copy.deepcopy(body)

    def _touch(self, item: Manifest) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)


class Rows:
    """`History` that remembers the latest row per key."""

    def __init__(self) -> None:
        self.by_id: dict[Any, TrainingRun] = {}
        self.logs: dict[uuid.UUID, str] = {}
        self.events: dict[tuple[uuid.UUID, str, str], RunEvent] = {}
        self.is_away = False

    def submit(
        self,
        rows: list[TrainingRun],
        logs: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        self.by_id |= {row.id: row for row in rows}
        self.logs |= logs
        self.events |= {(event.run_id, event.type, event.reason): event for event in events}

    def stored(self, rows: list[TrainingRun]) -> bool:
        return not self.is_away

    @property
    def all(self) -> list[TrainingRun]:
        return sorted(self.by_id.values(), key=lambda row: row.attempt)


def pod(
    task: Manifest,
    *,
    phase: str = "Pending",
    attempt: int = 1,
    state: Manifest | None = None,
    conditions: list[Manifest] | None = None,
    created: str = "2026-01-01T00:00:02Z",
) -> Manifest:
    """Return a pod of the task's Job as the view holds it."""
    container = [{"name": names.TRAINER_CONTAINER, "state": state}] if state else []
    name = f"{task['metadata']['name']}-0-{created[-6:-4]}{created[-3:-1]}"
    return {
        "metadata": {
            "name": name,
            "uid": str(uuid.uuid5(uuid.UUID(task["metadata"]["uid"]), name)),
            "creationTimestamp": created,
            "labels": {names.TASK_UID_LABEL: task["metadata"]["uid"]},
            "annotations": {names.FAILURE_COUNT_ANNOTATION: str(attempt - 1)},
        },
        "spec": {"nodeName": "node-1", "image": "trainer:test", "memoryLimit": "2Gi"},
        "status": {"phase": phase, "containerStatuses": container, "conditions": conditions or []},
    }


def running(at: str = "2026-01-01T00:00:03Z") -> Manifest:
    return {"running": {"startedAt": at}}


def terminated(code: int, message: str = "", reason: str = "Error") -> Manifest:
    times = {"startedAt": "2026-01-01T00:00:03Z", "finishedAt": "2026-01-01T00:01:03Z"}
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}


def job_condition(kind: str, reason: str = "", message: str = "") -> Manifest:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:01:04Z",
    }
