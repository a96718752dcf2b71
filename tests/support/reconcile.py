"""A task on the in-memory API server, and its conditions."""

from typing import Any

from support import specs
from support.in_memory_api_server import FakeCluster, pod, running
from trainingtask_operator.controller.reconciler import Reconciler

KEY = ("default", "t")


def add_task(cluster: FakeCluster, **changes: Any) -> dict[str, Any]:
    return cluster.add_task(specs.task("t", specs.changed(specs.CLASSICAL, **changes)))


def get_condition(task: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in task["status"]["conditions"] if c["type"] == kind), {})


def get_condition_status(task: dict[str, Any], kind: str) -> str:
    return str(get_condition(task, kind).get("status", ""))


def get_job(cluster: FakeCluster, task: dict[str, Any]) -> dict[str, Any]:
    job = cluster.find_job(task)
    assert job is not None
    return job


async def run_pod(cluster: FakeCluster, reconciler: Reconciler, task: dict[str, Any]) -> None:
    """Reconcile a new task, and again with a running pod."""
    await reconciler.reconcile(*KEY)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
