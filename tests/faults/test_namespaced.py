"""An operator with the chart's Roles in two namespaces and no other right, one of which takes its rights away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.control_plane import NAMESPACED, ControlPlane
from support.helm import Manifest, of_kind, render
from support.task_namespace import SUCCEEDS, TaskNamespace, create_namespace, eventually, get_condition, read_rows

RBAC = "/apis/rbac.authorization.k8s.io/v1"
TEAMS = ("team-a", "team-b")
OPTIONS = (
    "--set=rbac.namespaced=true",
    "--set=rbac.aggregateClusterRoles=false",
    "--set=crd.install=false",
    f"--set=trainer.namespaces={{{','.join(TEAMS)}}}",
)
ROLE = "trainingtask-operator"


def render_rights(kind: str) -> dict[str, Manifest]:
    """Return the operator's Role or RoleBinding in each namespace, with the user of this control plane in its subject."""
    found = {
        item["metadata"]["namespace"]: item
        for item in of_kind(render(*OPTIONS), kind)
        if item["metadata"]["name"] == ROLE
    }
    for item in found.values() if kind == "RoleBinding" else ():
        item["subjects"] = [{"kind": "User", "name": NAMESPACED, "apiGroup": "rbac.authorization.k8s.io"}]
    return found


@asynccontextmanager
async def create_teams(plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[TaskNamespace, TaskNamespace]]:
    async with create_namespace(plane, TEAMS[0], folder) as first, create_namespace(plane, TEAMS[1], folder) as second:
        for team in (first, second):
            for kind, plural in (("Role", "roles"), ("RoleBinding", "rolebindings")):
                await team.api.request(
                    "POST", f"{RBAC}/namespaces/{team.name}/{plural}", render_rights(kind)[team.name]
                )
        yield first, second


def read_denied_requests(plane: ControlPlane) -> list[tuple[str, str]]:
    """Return verb and address of each request of the operator that was not authorized."""
    events = map(json.loads, (plane.folder / "audit.log").read_text().splitlines())
    own: list[dict[str, Any]] = [event for event in events if event["user"]["username"] == NAMESPACED]
    assert own
    allowed = "authorization.k8s.io/decision"
    return [(e["verb"], e["requestURI"]) for e in own if e.get("annotations", {}).get(allowed) != "allow"]


async def test_rights_taken_away_in_one_namespace(plane: ControlPlane, history: str, tmp_path: Path) -> None:
    async with create_teams(plane, tmp_path) as (first, second):
        operator = first.operator(NAMESPACED, history=history, namespaces=TEAMS)
        async with operator:
            for team in (first, second):
                await team.create("before", SUCCEEDS)
                await team.wait_for_state("before", "Succeeded", timeout=60)
            assert read_denied_requests(plane) == [], "the Roles are enough"

            await operator.kill()
            await first.delete(RBAC, "rolebindings", ROLE)
            await operator.start()  # a watch that is open stays open without rights
            for team in (first, second):
                await team.create("after", SUCCEEDS)
            task = await second.wait_for_state("after", "Succeeded", timeout=60)
            assert get_condition(task, "Complete")["status"] == "True"
            assert "conditions" not in (await first.get_task("after"))["status"]

            binding = render_rights("RoleBinding")[first.name]
            await first.api.request("POST", f"{RBAC}/namespaces/{first.name}/rolebindings", binding)
            await first.wait_for_state("after", "Succeeded", timeout=60)

            async def has_all_rows() -> bool:
                rows = (await asyncio.to_thread(read_rows, history)).values()
                return [row["status"] for row in rows] == ["Succeeded"] * 4

            await eventually("a row for each task", has_all_rows, 60)
            assert not operator.find_defects()
            assert not operator.unexpected_exits
