"""A namespace on the session's control plane, the tasks in it, and what must hold of them whatever has failed."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import create_engine, inspect, select

from support import specs
from support.control_plane import OPERATORS, ControlPlane
from support.kube_api import JOBS, MERGE_PATCH, PODS, TASKS, Api, ApiError
from support.operators import Operator
from trainingtask_api import TrainingReport, names
from trainingtask_api.status import Results
from trainingtask_history.rows import build_result_columns
from trainingtask_history.tables import TrainingRun

Object = dict[str, Any]
Value = TypeVar("Value")

POLL_SECONDS = 0.2
CONVERGED_SECONDS = 30.0
# How a simulated trainer ends, by the image that it would run: its exit code. `RUNS` ends when its pod is deleted.
SUCCEEDS, CRASHES, KILLED, MISTAKEN, RUNS = (
    f"trainer:{word}" for word in ("succeeds", "crashes", "killed", "mistaken", "runs")
)
EXIT_CODES = {SUCCEEDS: 0, CRASHES: 1, KILLED: 137, MISTAKEN: 64}
RESULTS = {
    "globalStep": 1,
    "trainingLoss": 0.5,
    "trainRows": 10,
    "validationRows": 2,
    "runtimeSeconds": 1.5,
    "samplesPerSecond": 6.5,
    "labels": 2,
    "dataFingerprint": "0",
    "validation": {"rows": 2, "loss": 0.25},
    "evaluation": {
        "split": "test",
        "rows": 2,
        "threshold": 0.5,
        "thresholdSource": "fixed",
        "loss": 0.25,
        "accuracyThresh": 0.75,
        "subsetAccuracy": 0.5,
        "hammingLoss": 0.25,
        **{average: {"f1": 0.625} for average in ("micro", "macro", "weighted", "samples")},
        **{baseline: {"accuracyThresh": 0.5} for baseline in ("allZero", "labelPrior")},
        "runtimeSeconds": 0.5,
        "samplesPerSecond": 4.0,
    },
}
RESULT_COLUMNS = ("training_args", "training_result", "evaluate_result", "score")
ENDED = {"Complete", "Failed"}
FAILURE = {"reason": "InvalidData", "message": "The data cannot be trained on.", "phase": "Loading"}


def node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


@dataclass
class Scene:
    """What a test acts on."""

    plane: ControlPlane
    api: Api
    namespace: str
    folder: Path

    def operator(
        self,
        user: str = OPERATORS[0],
        *,
        server: str | None = None,
        history: str | None = None,
        lease: bool = False,
        patience: float | None = None,
    ) -> Operator:
        """Return a replica that is not started yet; `server` is what it takes for the API server.

        With `patience` it lets a watch be silent for so many seconds.
        """
        settings = self.folder / "settings.json"
        settings.write_text(
            json.dumps({"namespaces": [self.namespace], "devices": {"cpu": {"image": SUCCEEDS, "resources": {}}}})
        )
        environment = {} if history is None else {names.ENV_HISTORY_URL: history}
        if lease:
            environment |= {names.ENV_LEASE: f"{self.namespace}/the-lease", "POD_ID": user}
        kubeconfig = self.plane.kubeconfig(user, server)
        return Operator(self.folder / f"{user}.log", kubeconfig, settings, patience, **environment)

    async def create(self, name: str, image: str = SUCCEEDS, **changes: Any) -> None:
        """Create a task."""
        spec = specs.changed(specs.CLASSICAL, image=image, **changes)
        await self.api.request("POST", self._path(TASKS, names.PLURAL), specs.task(name, spec, self.namespace))

    async def task(self, name: str) -> Object:
        found: Object = await self.api.request("GET", self._path(TASKS, names.PLURAL, name))
        return found

    async def tasks(self) -> dict[str, Object]:
        """Return the tasks by name."""
        return {item["metadata"]["name"]: item for item in await self._all(TASKS, names.PLURAL)}

    async def jobs(self) -> list[Object]:
        return await self._all(JOBS, "jobs")

    async def pods(self) -> list[Object]:
        return await self._all(PODS, "pods")

    async def job_of(self, name: str) -> Object:
        """Return the Job of a task; fail unless there is exactly one."""
        uid = (await self.task(name))["metadata"]["uid"]
        (job,) = [job for job in await self.jobs() if owner_of(job) == uid]
        return job

    async def patch(self, root: str, plural: str, name: str, body: Object, **params: str) -> Object:
        """Change an object as a person would; `name` may end in `/status`."""
        patched: Object = await self.api.request("PATCH", self._path(root, plural, name), body, MERGE_PATCH, **params)
        return patched

    async def delete(self, root: str, plural: str, name: str, **params: str) -> None:
        await self.api.request("DELETE", self._path(root, plural, name), **params)

    async def end(self, task: str, exit_code: int = 0) -> None:
        """End the trainer of a task, once it runs."""
        uid = (await self.task(task))["metadata"]["uid"]

        async def running() -> Object | None:
            pods = [pod for pod in await self.pods() if pod["metadata"]["labels"][names.TASK_UID_LABEL] == uid]
            return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)

        pod = await eventually(f"the trainer of {task} runs", running, CONVERGED_SECONDS)
        started = pod["status"]["startTime"]
        terminated = {"exitCode": exit_code, "startedAt": started, "finishedAt": started}
        container = {**pod["status"]["containerStatuses"][0], "ready": False, "state": {"terminated": terminated}}
        status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": [container]}
        await self.patch(PODS, "pods", f"{pod['metadata']['name']}/status", {"status": status})

    async def state(self, name: str, wanted: str, timeout: float = CONVERGED_SECONDS) -> Object:
        """Wait until a task's status says `wanted`; return the task."""

        async def says() -> Object | None:
            task.update(await self.task(name))
            return task if state_of(task) == wanted else None

        task: Object = {}
        try:
            return await eventually(f"{name} is {wanted}", says, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {json.dumps(task.get('status'))}") from None

    async def jobs_ended(self, number: int, timeout: float) -> None:
        """Wait until so many Jobs have ended: from then on it is the operator's turn."""

        async def ended() -> bool:
            return sum(bool(true_conditions(job) & ENDED) for job in await self.jobs()) >= number

        await eventually(f"{number} Jobs have ended", ended, timeout)

    async def tasks_ended(self, timeout: float = CONVERGED_SECONDS) -> dict[str, Object]:
        """Wait until all tasks have ended; return them."""

        async def ended() -> dict[str, Object] | None:
            tasks = await self.tasks()
            return tasks if all(state_of(t) in ("Succeeded", "Failed") for t in tasks.values()) else None

        try:
            return await eventually("all tasks have ended", ended, timeout)
        except AssertionError as error:
            open_ones = {n: t.get("status") for n, t in (await self.tasks()).items() if not true_conditions(t) & ENDED}
            raise AssertionError(f"{error}, but {json.dumps(open_ones)[:4000]}") from None

    async def check(self, images: dict[str, str], retries: int = 0) -> None:
        """Assert of tasks that have ended: each in its right state after its right attempts, and one Job of its own."""
        tasks = await self.tasks()
        assert tasks.keys() == images.keys()
        for name, image in images.items():
            check_task(tasks[name], image, retries)
        self.check_writes(tasks)
        jobs = Counter(owner_of(job) for job in await self.jobs())
        assert jobs == Counter(task["metadata"]["uid"] for task in tasks.values())
        pods = Counter(pod["metadata"]["labels"][names.TASK_UID_LABEL] for pod in await self.pods())
        for task in tasks.values():
            assert pods[task["metadata"]["uid"]] == len(task["status"]["attempts"]), task["metadata"]["name"]

    def check_writes(self, tasks: dict[str, Object]) -> None:
        """Assert by the API server's audit log that a Job was created once per task, and nothing else written to."""
        writes = self.plane.writes(self.namespace)
        created = Counter(w["objectRef"]["name"] for w in writes if is_job_creation(w))
        created |= Counter({w["objectRef"]["name"]: 1 for w in writes if is_job_creation(w, code=504)})
        assert created == Counter(task["status"]["jobName"] for task in tasks.values())
        touched = {(w["objectRef"]["resource"], w["objectRef"].get("name")) for w in writes}
        allowed = {(names.PLURAL, name) for name in tasks} | {("jobs", name) for name in created}
        assert {t for t in touched if t[0] not in ("events", "leases")} <= allowed

    async def rows_match(self, history: str, timeout: float = 60) -> None:
        """Wait until the history holds exactly the rows of the tasks as they are now."""
        tasks = await self.tasks()
        expected = {key: row for task in tasks.values() for key, row in expected_rows(task).items()}

        async def match() -> bool:
            differences[:] = differing(await asyncio.to_thread(read_rows, history), expected)
            return not differences

        differences: list[str] = []
        try:
            await eventually(f"{len(expected)} exact rows", match, timeout)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *differences[:20]])) from None

    def _path(self, root: str, plural: str, name: str = "") -> str:
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def _all(self, root: str, plural: str) -> list[Object]:
        found: list[Object] = (await self.api.request("GET", self._path(root, plural)))["items"]
        return found


@asynccontextmanager
async def scene(plane: ControlPlane, namespace: str, folder: Path) -> AsyncIterator[Scene]:
    """Have a namespace of one's own; its tasks are deleted afterwards, so that no later operator looks at them."""
    async with Api(str(plane.kubeconfig())) as api:
        it = Scene(plane, api, namespace, folder)
        await api.request("POST", f"{PODS}/namespaces", {"metadata": {"name": namespace}})
        account = {"metadata": {"name": names.TRAINER_SERVICE_ACCOUNT}}
        await api.request("POST", f"{PODS}/namespaces/{namespace}/serviceaccounts", account)
        try:
            yield it
        finally:
            path = f"{TASKS}/namespaces/{namespace}/{names.PLURAL}"
            await api.request("DELETE", path, {"propagationPolicy": "Background"})


async def eventually(what: str, check: Callable[[], Awaitable[Value | None]], timeout: float) -> Value:
    """Return the first true value of `check`; an API server that does not answer has said nothing."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        value = await check()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        await asyncio.sleep(POLL_SECONDS)


def owner_of(item: Object) -> str:
    return next((owner["uid"] for owner in item["metadata"].get("ownerReferences", []) if owner.get("controller")), "")


def state_of(task: Object) -> str:
    return str(task.get("status", {}).get("state", ""))


def condition(task: Object, kind: str) -> Object:
    return next((c for c in task.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def true_conditions(item: Object) -> set[str]:
    return {c["type"] for c in item.get("status", {}).get("conditions", []) if c["status"] == "True"}


def is_job_creation(write: Object, code: int = 201) -> bool:
    """Tell whether the API server answered so to the creation of a Job: 504 if whoever asked was killed meanwhile."""
    return bool(
        write["verb"] == "create"
        and write["objectRef"]["resource"] == "jobs"
        and write["responseStatus"]["code"] == code
    )


def check_task(task: Object, image: str, retries: int) -> None:
    """Assert that a task ended as its image ends."""
    name, status = task["metadata"]["name"], task["status"]
    code = EXIT_CODES[image]
    assert state_of(task) == ("Failed" if code else "Succeeded"), name
    attempts = 1 + (retries if image in (CRASHES, KILLED) else 0)
    assert [record["number"] for record in status["attempts"]] == list(range(1, attempts + 1)), name
    assert {record["exitCode"] for record in status["attempts"]} == {code}, name
    reason = {SUCCEEDS: "Succeeded", MISTAKEN: FAILURE["reason"]}.get(
        image, "RetriesExhausted" if retries else "TrainerCrashed"
    )
    assert condition(task, "Failed" if code else "Complete")["reason"] == reason, name
    if image == SUCCEEDS:
        assert Results.model_validate(status["training"]["results"]) == Results.model_validate(RESULTS), name


def expected_rows(task: Object) -> dict[tuple[str, int], Object]:
    """Return what the history must say of a task that has ended, by uid and attempt."""
    status, metadata = task["status"], task["metadata"]
    rows = {}
    for record in status["attempts"]:
        is_last = record["number"] == status["attempt"]
        succeeded = is_last and state_of(task) == "Succeeded"
        columns: Object = dict.fromkeys(RESULT_COLUMNS)
        report = status.get("training", {})
        if "results" in report and report["attempt"] == record["number"]:
            results = TrainingReport.model_validate(report).results
            assert results is not None
            columns = build_result_columns(results)
        rows[metadata["uid"], record["number"]] = {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "status": "Succeeded" if succeeded else "Failed",
            "error_reason": record.get("reason"),
            "node": record.get("node"),
            "create_time": in_seconds(metadata["creationTimestamp"]),
            "start_time": in_seconds(record.get("startTime")),
            "finish_time": in_seconds(record["finishTime"]),
            **columns,
        }
    return rows


def in_seconds(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(microsecond=0)


def differing(found: dict[tuple[str, int], Object], expected: dict[tuple[str, int], Object]) -> list[str]:
    """Return what differs between rows, one line each."""
    lines = []
    for key in sorted(found.keys() | expected.keys()):
        row, wanted = found.get(key), expected.get(key)
        if row is None or wanted is None:
            lines.append(f"{key}: {'missing' if row is None else 'too much'}: {row or wanted}")
        else:
            lines += [f"{key} {c}: {row[c]!r}, not {wanted[c]!r}" for c in wanted if row[c] != wanted[c]]
    return lines


def read_rows(history: str) -> dict[tuple[str, int], Object]:
    """Return the rows of a history as `expected_rows` says them."""
    engine = create_engine(history)
    try:
        if not inspect(engine).has_table(TrainingRun.__tablename__):
            return {}
        with engine.connect() as connection:
            found = connection.execute(select(TrainingRun.__table__)).mappings().all()  # type: ignore[attr-defined]
    finally:
        engine.dispose()
    times = ("create_time", "start_time", "finish_time")
    columns = ("name", "namespace", "status", "error_reason", "node", *RESULT_COLUMNS)
    return {
        (row["task_uid"], row["attempt"]): {
            **{column: row[column] for column in columns},
            **{time: row[time] and row[time].replace(microsecond=0) for time in times},
        }
        for row in found
    }


__all__ = ["JOBS", "PODS", "TASKS", "ApiError", "Scene", "scene"]
