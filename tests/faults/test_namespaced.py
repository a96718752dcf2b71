"""An operator with the chart's Roles in namespaces and no other right: one takes its rights away, and one uses them all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.audit_log import get_used_right, is_allowed
from support.control_plane import NAMESPACED, ControlPlane
from support.crds import build_crd
from support.helm import Manifest, get_rights, of_kind, render
from support.kube_api import Api
from support.task_namespace import (
    JOBS,
    PODS,
    RUNS,
    SUCCEEDS,
    TASKS,
    TaskNamespace,
    create_namespace,
    eventually,
    get_condition,
    read_rows,
)
from trainingtask_api import names

RBAC = "/apis/rbac.authorization.k8s.io/v1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
JOBSETS = f"/apis/{names.JOBSET_API_VERSION}"
WORKLOADS = f"/apis/{names.KUEUE_GROUP}/{names.KUEUE_VERSIONS[0]}"
TEAMS = ("team-a", "team-b")
ALONE = "team-alone"
ROLE = "trainingtask-operator"
PAIR = {"resources": {"nodes": 2}, "model": {"name": "bert"}, "dataset": {"name": "go_emotions"}}


def render_rights(kind: str, *namespaces: str) -> dict[str, Manifest]:
    """Return the operator's Role or RoleBinding in each namespace, with the user of this control plane in its subject."""
    manifests = render(
        "--set=rbac.namespaced=true",
        "--set=rbac.aggregateClusterRoles=false",
        "--set=crd.install=false",
        f"--set=trainer.namespaces={{{','.join(namespaces)}}}",
        "--set=kueue.enabled=true",
    )
    found = {
        item["metadata"]["namespace"]: item for item in of_kind(manifests, kind) if item["metadata"]["name"] == ROLE
    }
    for item in found.values() if kind == "RoleBinding" else ():
        item["subjects"] = [{"kind": "User", "name": NAMESPACED, "apiGroup": "rbac.authorization.k8s.io"}]
    return found


async def grant(api: Api, *namespaces: str) -> None:
    """Create the Roles of a release with these namespaces, and bind them."""
    for kind, plural in (("Role", "roles"), ("RoleBinding", "rolebindings")):
        for namespace, item in render_rights(kind, *namespaces).items():
            await api.request("POST", f"{RBAC}/namespaces/{namespace}/{plural}", item)


@asynccontextmanager
async def create_teams(plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[TaskNamespace, TaskNamespace]]:
    async with create_namespace(plane, TEAMS[0], folder) as first, create_namespace(plane, TEAMS[1], folder) as second:
        await grant(first.api, *TEAMS)
        yield first, second


def read_requests(plane: ControlPlane) -> list[dict[str, Any]]:
    """Return the requests of the operator from the audit log."""
    events = map(json.loads, (plane.folder / "audit.log").read_text().splitlines())
    own: list[dict[str, Any]] = [event for event in events if event["user"]["username"] == NAMESPACED]
    assert own
    return own


def list_denied_requests(plane: ControlPlane) -> list[tuple[str, str]]:
    """Return verb and address of each request of the operator that was not authorized."""
    return [(event["verb"], event["requestURI"]) for event in read_requests(plane) if not is_allowed(event)]


async def test_rights_taken_away_in_one_namespace(plane: ControlPlane, history: str, tmp_path: Path) -> None:
    async with create_teams(plane, tmp_path) as (first, second):
        operator = first.operator(NAMESPACED, history=history, namespaces=TEAMS)
        async with operator:
            await operator.wait_until_ready()
            for team in (first, second):
                await team.create("before", SUCCEEDS)
                await team.wait_for_state("before", "Succeeded")
            assert list_denied_requests(plane) == [], "the Roles are enough"

            await operator.kill()
            await first.delete(RBAC, "rolebindings", ROLE)
            await operator.start()  # a watch that is open stays open without rights
            for team in (first, second):
                await team.create("after", SUCCEEDS)
            task = await second.wait_for_state("after", "Succeeded")
            assert get_condition(task, "Complete")["status"] == "True"
            assert "conditions" not in (await first.get_task("after"))["status"]

            binding = render_rights("RoleBinding", *TEAMS)[first.name]
            await first.api.request("POST", f"{RBAC}/namespaces/{first.name}/rolebindings", binding)
            await first.wait_for_state("after", "Succeeded")

            async def has_all_rows() -> bool:
                rows = (await asyncio.to_thread(read_rows, history)).values()
                return [row["status"] for row in rows] == ["Succeeded"] * 4

            await eventually("a row for each task", has_all_rows)
            assert not operator.find_defects()
            assert not operator.unexpected_exits


async def test_every_right_of_the_roles_is_used(plane: ControlPlane, history: str, tmp_path: Path) -> None:
    """As test_rights.py of the cluster mode; JobSet and Kueue are kinds without their controllers here."""
    async with create_namespace(plane, ALONE, tmp_path) as team:
        await grant(team.api, ALONE)
        await create_kinds(team.api)
        async with team.operator(NAMESPACED, history=history, namespaces=[ALONE], kueue=True) as operator:
            await operator.wait_until_ready()
            await asyncio.gather(
                end_and_expire(team),
                delete_a_running_job(team),
                keep_a_pod_from_ending(team, "beside", 0, "Succeeded"),
                keep_a_pod_from_ending(team, "failed", 64, "Failed"),
                suspend_and_delete_a_jobset(team),
                pass_the_deadline_of_a_jobset(team),
                suspend_a_queued_task(team),
            )
            requests = [r for r in read_requests(plane) if r.get("objectRef", {}).get("namespace") == ALONE]
            assert [request["requestURI"] for request in requests if not is_allowed(request)] == []
            assert get_rights(render_rights("Role", ALONE)[ALONE]) == {get_used_right(request) for request in requests}
            assert not operator.find_defects()


async def create_kinds(api: Api) -> None:
    """Create the kinds of JobSet and Kueue, which another test may have created; wait until they are served."""
    kinds = {JOBSETS: names.JOBSET_KIND, WORKLOADS: names.KUEUE_WORKLOAD_KIND}
    for path, kind in kinds.items():
        crd = build_crd(*path.removeprefix("/apis/").split("/"), kind)
        if crd["metadata"]["name"] not in {
            item["metadata"]["name"] for item in (await api.request("GET", CRDS))["items"]
        }:
            await api.request("POST", CRDS, crd)

        async def is_served(name: str = crd["metadata"]["name"]) -> bool:
            found = (await api.request("GET", f"{CRDS}/{name}")).get("status", {}).get("conditions") or []
            return any(c["type"] == "Established" and c["status"] == "True" for c in found)

        await eventually(f"{kind} is served", is_served)


async def end_and_expire(team: TaskNamespace) -> None:
    """The Job gets its time to live, and the task is deleted."""
    await team.create("expires", SUCCEEDS, runPolicy={"ttlSecondsAfterFinished": 0, "deleteTask": True})

    async def is_gone() -> bool:
        return "expires" not in await team.list_tasks()

    await eventually("the task is deleted", is_gone)


async def delete_a_running_job(team: TaskNamespace) -> None:
    """Task, Job and namespace are read: which of them is being deleted?"""
    await team.create("lost", RUNS)
    await team.wait_for_state("lost", "Running")
    job = await team.get_job("lost")
    await team.delete(JOBS, "jobs", job["metadata"]["name"], propagationPolicy="Background")
    await team.wait_for_state("lost", "Failed")


async def keep_a_pod_from_ending(team: TaskNamespace, name: str, exit_code: int, state: str) -> None:
    """A container that is not the trainer's goes on: the Job is deleted after a success, the pod after a failure."""
    await team.create(name, RUNS, runPolicy__retries=0)
    await team.wait_for_state(name, "Running")
    uid = (await team.get_job(name))["metadata"]["uid"]
    (pod,) = [pod for pod in await team.list_pods() if uid in {o["uid"] for o in pod["metadata"]["ownerReferences"]}]
    trainer = pod["status"]["containerStatuses"][0]
    ended = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    terminated = {"exitCode": exit_code, "startedAt": ended, "finishedAt": ended}
    statuses = [{**trainer, "name": "mesh-proxy"}, {**trainer, "ready": False, "state": {"terminated": terminated}}]
    await team.patch(PODS, "pods", f"{pod['metadata']['name']}/status", {"status": {"containerStatuses": statuses}})
    await team.wait_for_state(name, state)

    async def is_deleted() -> bool:
        found = await team.list_pods()
        return pod["metadata"]["name"] not in {item["metadata"]["name"] for item in found}

    await eventually("the pod is deleted", is_deleted)


async def wait_for_jobset(team: TaskNamespace, task: str) -> Any:
    async def find() -> Any:
        found = (await team.api.request("GET", f"{JOBSETS}/namespaces/{team.name}/jobsets"))["items"]
        return next((item for item in found if item["metadata"]["labels"][names.TASK_NAME_LABEL] == task), None)

    return await eventually(f"a JobSet of {task}", find)


async def suspend_and_delete_a_jobset(team: TaskNamespace) -> None:
    """Its claim is read before, and the JobSet itself when it is missing though a trainer has reported."""
    await team.create(
        "group", RUNS, **PAIR | {"model": {"name": "bert", "volumeClaim": "models", "checkpoint": "bert"}}
    )
    name = (await wait_for_jobset(team, "group"))["metadata"]["name"]
    await team.patch(TASKS, names.PLURAL, "group", {"spec": {"runPolicy": {"suspend": True}}})
    await team.wait_for_state("group", "Suspended")
    report = {"attempt": 1, "phase": "Training"}
    await team.patch(TASKS, names.PLURAL, "group/status", {"status": {"training": report}})
    await team.delete(JOBSETS, "jobsets", name)
    await team.wait_for_state("group", "Failed")


async def pass_the_deadline_of_a_jobset(team: TaskNamespace) -> None:
    await team.create("overdue", RUNS, **PAIR, runPolicy={"activeDeadlineSeconds": 1})
    task = await team.wait_for_state("overdue", "Failed")
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"


async def suspend_a_queued_task(team: TaskNamespace) -> None:
    """The suspension is told to Kueue, in the Workload that it makes of each Job."""
    await team.create("queued", RUNS, runPolicy={"queueName": "team-a"})

    async def find_job() -> Any:
        uid = (await team.get_task("queued"))["metadata"]["uid"]
        return next((j for j in await team.list_jobs() if j["metadata"]["labels"][names.TASK_UID_LABEL] == uid), None)

    job = await eventually("a Job", find_job)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
    owner |= {key: job["metadata"][key] for key in ("name", "uid")}
    labels = {names.KUEUE_JOB_UID_LABEL: job["metadata"]["uid"]}
    workload = {
        "apiVersion": WORKLOADS.removeprefix("/apis/"),
        "kind": names.KUEUE_WORKLOAD_KIND,
        "metadata": {"name": "queued", "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "active": True,
            "queueName": "team-a",
            "podSets": [{"name": "main", "template": job["spec"]["template"]}],
        },
    }
    path = f"{WORKLOADS}/namespaces/{team.name}/workloads"
    await team.api.request("POST", path, workload)
    await team.patch(TASKS, names.PLURAL, "queued", {"spec": {"runPolicy": {"suspend": True}}})

    async def is_deactivated() -> bool:
        return (await team.api.request("GET", f"{path}/queued"))["spec"]["active"] is False

    await eventually("the Workload is deactivated", is_deactivated)
