"""The health of a task as GitOps tools compute it: by kstatus's rules, and by the documented Lua script for Argo CD."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from lupa.lua54 import LuaRuntime

from support.in_memory_api_server import FakeCluster, job_condition, pod, running, terminated
from support.kstatus import compute_kstatus
from support.reconcile import KEY, add_task, get_job, run_pod
from trainingtask_api.status import UNOBSERVED_STATUS
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import Object, get_conditions

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "use-argo-cd-and-flux.md"
SCRIPT = "resource.customizations.health.trainingtask.dev_TrainingTask"
Scene = Callable[[FakeCluster, Reconciler], Awaitable[Object]]


async def create_unobserved(cluster: FakeCluster, _: Reconciler) -> Object:
    return add_task(cluster) | {"status": UNOBSERVED_STATUS}


async def create_waiting(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    return task


async def create_running(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    return task


async def create_interrupted(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = await create_running(cluster, reconciler)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Failed", state=terminated(1))]
    await reconciler.reconcile(*KEY)
    return task


async def create_suspended(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = add_task(cluster, runPolicy={"suspend": True})
    await reconciler.reconcile(*KEY)
    return task


async def create_succeeded(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = await create_running(cluster, reconciler)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    return task


async def create_failed(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = await create_interrupted(cluster, reconciler)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", "FailedIndexes")]}
    await reconciler.reconcile(*KEY)
    return task


async def create_refused(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = add_task(cluster, resources={"profile": "none"})
    await reconciler.reconcile(*KEY)
    return task


async def create_invalid(cluster: FakeCluster, reconciler: Reconciler) -> Object:
    task = add_task(cluster)
    task["spec"]["device"] = "abacus"
    await reconciler.reconcile(*KEY)
    return task


SCENES: list[tuple[Scene, str, str, str]] = [  # kstatus, Argo CD's health, part of the message
    (create_unobserved, "InProgress", "Progressing", ""),
    (create_waiting, "InProgress", "Progressing", "Waiting for the trainer's pod"),
    (create_running, "Current", "Progressing", ""),
    (create_interrupted, "Current", "Progressing", ""),
    (create_suspended, "Current", "Suspended", ""),
    (create_succeeded, "Current", "Healthy", ""),
    (create_failed, "Failed", "Degraded", "Attempt 1 failed as well"),
    (create_refused, "Failed", "Degraded", "none"),
    (create_invalid, "Failed", "Degraded", "device"),
]
EACH_SCENE = pytest.mark.parametrize(
    ("scene", "kstatus", "health", "part"), SCENES, ids=[scene[0].__name__ for scene in SCENES]
)


@pytest.fixture(scope="module")
def script() -> str:
    """Return the Lua script of the page."""
    manifest = PAGE.read_text(encoding="utf-8").split("```yaml\n")[2].split("```")[0]
    return str(yaml.safe_load(manifest)["data"][SCRIPT])


def run_script(script: str, item: Object) -> tuple[str, str]:
    """Return status and message of a health script, run as Argo CD does: the object is the global `obj`."""
    lua = LuaRuntime(register_eval=False)
    lua.globals()["obj"] = lua.table_from(item, recursive=True)
    found = lua.execute(script)
    return found["status"], found["message"]


@EACH_SCENE
async def test_the_status_by_kstatus(
    cluster: FakeCluster, reconciler: Reconciler, scene: Scene, kstatus: str, health: str, part: str
) -> None:
    status, message = compute_kstatus(await scene(cluster, reconciler))
    assert status == kstatus
    assert part in message


@EACH_SCENE
async def test_the_health_by_the_documented_script(
    cluster: FakeCluster, reconciler: Reconciler, script: str, scene: Scene, kstatus: str, health: str, part: str
) -> None:
    status, message = run_script(script, await scene(cluster, reconciler))
    assert status == health
    assert part in message


async def test_a_spec_that_changed_is_in_progress(cluster: FakeCluster, reconciler: Reconciler, script: str) -> None:
    task = await create_suspended(cluster, reconciler)
    task["metadata"]["generation"] += 1
    assert compute_kstatus(task)[0] == "InProgress"
    assert run_script(script, task)[0] == "Progressing"


async def test_conditions_for_gitops_cost_no_write_and_no_event(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = await create_waiting(cluster, reconciler)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert cluster.requests == ["create job", "apply status", "apply status"]
    assert {condition["type"] for condition in get_conditions(task)} == {"Accepted", "Running"}
    await create_failed(cluster, reconciler)
    assert [event["reason"] for event in cluster.events] == ["TrainerCrashed", "RetriesExhausted"]


async def test_a_job_has_none_of_the_labels_by_which_argo_cd_prunes(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    task["metadata"]["labels"] = {"app.kubernetes.io/instance": "app"}
    task["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": "app:trainingtask.dev/TrainingTask:default/t"}
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    texts = str(job["metadata"]) + str(job["spec"]["template"]["metadata"])
    assert "app.kubernetes.io/instance" not in texts
    assert "argocd" not in texts
    assert job["metadata"]["ownerReferences"][0]["kind"] == "TrainingTask"
