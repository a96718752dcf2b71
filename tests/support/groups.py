"""A task on several nodes on the in-memory API server, its JobSet and its pods."""

from typing import Any

from support import specs
from support.in_memory_api_server import FakeCluster, pod, running
from support.reconcile import KEY, get_job
from trainingtask_api import names
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import Object

TRAINER_SPEC = specs.changed(specs.TRANSFORMER, resources={"nodes": 2})


def add_group(cluster: FakeCluster, **changes: Any) -> Object:
    return cluster.add_task(specs.task("t", specs.changed(TRAINER_SPEC, **changes)))


def group_pod(task: Object, index: int, *, restarts: int = 0, node: str | None = None, **pod_fields: Any) -> Object:
    """Return the pod with this index of a start of the group, as the cache holds it."""
    made = pod(task, **pod_fields)
    made["metadata"]["name"] = f"t-trainer-0-{index}-r{restarts}"
    made["metadata"]["uid"] = f"pod-{index}-{restarts}-{made['metadata']['creationTimestamp']}"
    made["metadata"]["annotations"] = {
        names.RESTART_COUNT_ANNOTATION: str(restarts),
        names.NODE_RANK_ANNOTATION: str(index),
    }
    made["spec"]["nodeName"] = node or f"node-{index}"
    return made


def set_pods(cluster: FakeCluster, task: Object, *pods: Object) -> None:
    """Replace the pods; new ones are counted by the template of the present JobSet."""
    if (jobset := cluster.find_job(task)) is not None:
        (job,) = jobset["spec"]["replicatedJobs"]
        former = job["template"]["spec"]["template"]["metadata"]["annotations"][names.FORMER_ATTEMPTS_ANNOTATION]
        for made in pods:
            made["metadata"]["annotations"].setdefault(names.FORMER_ATTEMPTS_ANNOTATION, former)
    cluster.pods[task["metadata"]["uid"]] = list(pods)


def run_group(cluster: FakeCluster, task: Object, restarts: int = 0) -> None:
    """Let both pods run."""
    set_pods(
        cluster,
        task,
        *(group_pod(task, i, restarts=restarts, phase="Running", state=running()) for i in range(2)),
    )


async def start_group(cluster: FakeCluster, reconciler: Reconciler, task: Object) -> None:
    """Reconcile a new task, and again with its running pods."""
    await reconciler.reconcile(*KEY)
    run_group(cluster, task)
    await reconciler.reconcile(*KEY)


def set_jobset_condition(
    cluster: FakeCluster, task: Object, kind: str, reason: str = "", status: str = "True", at: str = "00:01:04"
) -> None:
    """Set a condition of the JobSet."""
    condition = {"type": kind, "status": status, "reason": reason, "message": ""}
    condition["lastTransitionTime"] = f"2026-01-01T{at}Z"
    conditions = get_job(cluster, task)["status"].setdefault("conditions", [])
    conditions[:] = [c for c in conditions if c["type"] != kind] + [condition]
