"""A namespace with tasks on the session's control plane, and the assertions that hold whatever has failed."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
CONVERGED_SECONDS = 240.0  # less than the 300 s of the resync, which would find what the watches miss
# Exit codes of simulated trainers, by image. `RUNS` runs until its pod is deleted; the container of `WAITS` never starts.
SUCCEEDS, CRASHES, KILLED, MISTAKEN, RUNS, WAITS = (
    f"trainer:{outcome}" for outcome in ("succeeds", "crashes", "killed", "mistaken", "runs", "waits")
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
FINISHED = {"Complete", "Failed"}
FAILURE = {"reason": "InvalidData", "message": "The data cannot be trained on.", "phase": "Loading"}


def build_node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


@dataclass
class TaskNamespace:
    """A namespace of its own for one test."""

    plane: ControlPlane
    api: Api
    name: str
    folder: Path

    def operator(
        self,
        user: str = OPERATORS[0],
        *,
        server: str | None = None,
        history: str | None = None,
        lease: bool = False,
        watch_timeout: float | None = None,
        namespaces: Sequence[str] = (),
        kueue: bool = False,
    ) -> Operator:
        """Return a replica that is not started yet.

        Parameters
        ----------
        user
            Account of the replica.
        server
            URL in the place of the API server's.
        history
            URL of the database.
        lease
            Whether it takes part in a leader election.
        watch_timeout
            Seconds without a byte after which it reconnects a watch.
        namespaces
            Where it has rights and watches, in place of the whole cluster.
        kueue
            Whether it watches Kueue's Workloads.
        """
        settings = self.folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "namespaces": [*namespaces] or [self.name],
                    "namespaced": bool(namespaces),
                    "kueue": {"enabled": kueue},
                    "devices": {"cpu": {"image": SUCCEEDS, "resources": {"cpu": "1", "memory": "2Gi"}}},
                }
            )
        )
        environment = {} if history is None else {names.ENV_HISTORY_URL: history}
        if lease:
            environment |= {names.ENV_LEASE: f"{self.name}/the-lease", "POD_ID": user}
        kubeconfig = self.plane.kubeconfig(user, server)
        return Operator(self.folder / f"{user}.log", kubeconfig, settings, watch_timeout, **environment)

    async def create(self, name: str, image: str = SUCCEEDS, **changes: Any) -> None:
        """Create a task."""
        spec = specs.changed(specs.CLASSICAL, image=image, **changes)
        await self.api.request("POST", self._path(TASKS, names.PLURAL), specs.task(name, spec, self.name))

    async def get_task(self, name: str) -> Object:
        found: Object = await self.api.request("GET", self._path(TASKS, names.PLURAL, name))
        return found

    async def list_tasks(self) -> dict[str, Object]:
        """Return the tasks by name."""
        return {item["metadata"]["name"]: item for item in await self._all(TASKS, names.PLURAL)}

    async def list_jobs(self) -> list[Object]:
        return await self._all(JOBS, "jobs")

    async def list_pods(self) -> list[Object]:
        return await self._all(PODS, "pods")

    async def get_job(self, name: str) -> Object:
        """Return the Job of a task; fail unless there is exactly one."""
        uid = (await self.get_task(name))["metadata"]["uid"]
        (job,) = [job for job in await self.list_jobs() if get_owner_uid(job) == uid]
        return job

    async def patch(self, root: str, plural: str, name: str, body: Object, **params: str) -> Object:
        """Change an object as a person would; `name` may end in `/status`."""
        patched: Object = await self.api.request("PATCH", self._path(root, plural, name), body, MERGE_PATCH, **params)
        return patched

    async def delete(self, root: str, plural: str, name: str, **params: str) -> None:
        await self.api.request("DELETE", self._path(root, plural, name), **params)

    async def finish_trainer(self, task: str, exit_code: int = 0) -> None:
        """End the trainer of a task, once it runs."""
        uid = (await self.get_task(task))["metadata"]["uid"]

        async def running() -> Object | None:
            pods = [pod for pod in await self.list_pods() if pod["metadata"]["labels"][names.TASK_UID_LABEL] == uid]
            return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)

        pod = await eventually(f"the trainer of {task} runs", running)
        started = pod["status"]["startTime"]
        terminated = {"exitCode": exit_code, "startedAt": started, "finishedAt": started}
        container = {**pod["status"]["containerStatuses"][0], "ready": False, "state": {"terminated": terminated}}
        status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": [container]}
        await self.patch(PODS, "pods", f"{pod['metadata']['name']}/status", {"status": status})

    async def wait_for_state(self, name: str, state: str, timeout: float = CONVERGED_SECONDS) -> Object:
        """Wait until a task has this state; return the task."""

        async def has_state() -> Object | None:
            task.update(await self.get_task(name))
            return task if get_state(task) == state else None

        task: Object = {}
        try:
            return await eventually(f"{name} is {state}", has_state, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {json.dumps(task.get('status'))}") from None

    async def wait_for_attempt(self, name: str, number: int) -> Object:
        """Wait until this attempt of a task runs; return the task."""

        async def runs() -> Object | None:
            task = await self.get_task(name)
            return task if task["status"].get("attempt") == number and get_state(task) == "Running" else None

        return await eventually(f"attempt {number} of {name} runs", runs)

    async def wait_for_finished_jobs(self, number: int, timeout: float = CONVERGED_SECONDS) -> None:
        """Wait until so many Jobs have finished."""

        async def ended() -> bool:
            return sum(bool(get_true_conditions(job) & FINISHED) for job in await self.list_jobs()) >= number

        await eventually(f"{number} Jobs have ended", ended, timeout)

    async def wait_for_finished_tasks(self, timeout: float = CONVERGED_SECONDS) -> dict[str, Object]:
        """Wait until all tasks have finished; return them."""

        async def ended() -> dict[str, Object] | None:
            tasks = await self.list_tasks()
            return tasks if all(get_state(t) in ("Succeeded", "Failed") for t in tasks.values()) else None

        try:
            return await eventually("all tasks have ended", ended, timeout)
        except AssertionError as error:
            unfinished = {
                n: t.get("status")
                for n, t in (await self.list_tasks()).items()
                if not get_true_conditions(t) & FINISHED
            }
            raise AssertionError(f"{error}, but {json.dumps(unfinished)[:4000]}") from None

    async def assert_finished(self, images: dict[str, str], retries: int = 0) -> None:
        """Assert that each task has finished as its image defines, after the right attempts, with one Job of its own."""
        tasks = await self.list_tasks()
        assert tasks.keys() == images.keys()
        for name, image in images.items():
            assert_finished_as(tasks[name], image, retries)
        self.assert_writes(tasks)
        jobs = Counter(get_owner_uid(job) for job in await self.list_jobs())
        assert jobs == Counter(task["metadata"]["uid"] for task in tasks.values())
        pods = Counter(pod["metadata"]["labels"][names.TASK_UID_LABEL] for pod in await self.list_pods())
        for task in tasks.values():
            assert pods[task["metadata"]["uid"]] == len(task["status"]["attempts"]), task["metadata"]["name"]

    def assert_writes(self, tasks: dict[str, Object]) -> None:
        """Assert by the API server's audit log that a Job was created once per task, and nothing else written to."""
        writes = self.plane.read_writes(self.name)
        created = Counter(w["objectRef"]["name"] for w in writes if is_job_creation(w))
        created |= Counter({w["objectRef"]["name"]: 1 for w in writes if is_job_creation(w, code=504)})
        assert created == Counter(task["status"]["jobName"] for task in tasks.values())
        touched = {(w["objectRef"]["resource"], w["objectRef"].get("name")) for w in writes}
        allowed = {(names.PLURAL, name) for name in tasks} | {("jobs", name) for name in created}
        assert {t for t in touched if t[0] not in ("events", "leases")} <= allowed

    async def wait_for_rows(self, history: str, timeout: float = CONVERGED_SECONDS) -> None:
        """Wait until the history holds exactly the rows of the tasks as they are now."""
        tasks = await self.list_tasks()
        expected = {key: row for task in tasks.values() for key, row in build_expected_rows(task).items()}

        async def matches() -> bool:
            differences[:] = find_differences(await asyncio.to_thread(read_rows, history), expected)
            return not differences

        differences: list[str] = []
        try:
            await eventually(f"{len(expected)} exact rows", matches, timeout)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *differences[:20]])) from None

    def _path(self, root: str, plural: str, name: str = "") -> str:
        return f"{root}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    async def _all(self, root: str, plural: str) -> list[Object]:
        found: list[Object] = (await self.api.request("GET", self._path(root, plural)))["items"]
        return found


@asynccontextmanager
async def create_namespace(plane: ControlPlane, name: str, folder: Path) -> AsyncIterator[TaskNamespace]:
    """Create a namespace; delete its tasks afterwards, so that no later operator reconciles them."""
    async with Api(str(plane.kubeconfig())) as api:
        namespace = TaskNamespace(plane, api, name, folder)
        await api.request("POST", f"{PODS}/namespaces", {"metadata": {"name": name}})
        account = {"metadata": {"name": names.TRAINER_SERVICE_ACCOUNT}}
        await api.request("POST", f"{PODS}/namespaces/{name}/serviceaccounts", account)
        try:
            yield namespace
        finally:
            path = f"{TASKS}/namespaces/{name}/{names.PLURAL}"
            await api.request("DELETE", path, {"propagationPolicy": "Background"})


async def eventually(
    what: str, check: Callable[[], Awaitable[Value | None]], timeout: float = CONVERGED_SECONDS
) -> Value:
    """Return the first true value of `check`; fail after the timeout."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        value = await check()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        await asyncio.sleep(POLL_SECONDS)


def get_owner_uid(item: Object) -> str:
    return next((owner["uid"] for owner in item["metadata"].get("ownerReferences", []) if owner.get("controller")), "")


def get_state(task: Object) -> str:
    return str(task.get("status", {}).get("state", ""))


def get_condition(task: Object, kind: str) -> Object:
    return next((c for c in task.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def get_true_conditions(item: Object) -> set[str]:
    return {c["type"] for c in item.get("status", {}).get("conditions", []) if c["status"] == "True"}


def is_job_creation(write: Object, code: int = 201) -> bool:
    """Return whether this is a creation of a Job with this status code: 504 if the client was killed meanwhile."""
    return bool(
        write["verb"] == "create"
        and write["objectRef"]["resource"] == "jobs"
        and write["responseStatus"]["code"] == code
    )


def assert_finished_as(task: Object, image: str, retries: int) -> None:
    """Assert that a task has finished as its image defines."""
    name, status = task["metadata"]["name"], task["status"]
    code = EXIT_CODES[image]
    assert get_state(task) == ("Failed" if code else "Succeeded"), name
    attempts = 1 + (retries if image in (CRASHES, KILLED) else 0)
    assert [record["number"] for record in status["attempts"]] == list(range(1, attempts + 1)), name
    assert {record["exitCode"] for record in status["attempts"]} == {code}, name
    reason = {SUCCEEDS: "Succeeded", MISTAKEN: FAILURE["reason"]}.get(
        image, "RetriesExhausted" if retries else "TrainerCrashed"
    )
    assert get_condition(task, "Failed" if code else "Complete")["reason"] == reason, name
    if image == SUCCEEDS:
        assert Results.model_validate(status["training"]["results"]) == Results.model_validate(RESULTS), name


def build_expected_rows(task: Object) -> dict[tuple[str, int], Object]:
    """Return the expected history rows of a finished task, by uid and attempt."""
    status, metadata = task["status"], task["metadata"]
    rows = {}
    for record in status["attempts"]:
        is_last = record["number"] == status["attempt"]
        succeeded = is_last and get_state(task) == "Succeeded"
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
            "create_time": parse_seconds(metadata["creationTimestamp"]),
            "start_time": parse_seconds(record.get("startTime")),
            "finish_time": parse_seconds(record["finishTime"]),
            **columns,
        }
    return rows


def parse_seconds(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(microsecond=0)


def find_differences(found: dict[tuple[str, int], Object], expected: dict[tuple[str, int], Object]) -> list[str]:
    """Return the differences between rows, one line each."""
    lines = []
    for key in sorted(found.keys() | expected.keys()):
        row, wanted = found.get(key), expected.get(key)
        if row is None or wanted is None:
            lines.append(f"{key}: {'missing' if row is None else 'too much'}: {row or wanted}")
        else:
            lines += [f"{key} {c}: {row[c]!r}, not {wanted[c]!r}" for c in wanted if row[c] != wanted[c]]
    return lines


def read_rows(history: str) -> dict[tuple[str, int], Object]:
    """Return the rows of a history in the form of `build_expected_rows`."""
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


__all__ = ["JOBS", "PODS", "TASKS", "ApiError", "TaskNamespace", "create_namespace"]
