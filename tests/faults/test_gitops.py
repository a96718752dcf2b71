"""Tasks that a GitOps tool applies, on a real API server: their status by kstatus's rules, and no drift."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from support import specs
from support.kstatus import compute_kstatus
from support.task_namespace import SUCCEEDS, TaskNamespace, get_true_conditions


@pytest.mark.parametrize("options", [[], ["--server-side", "--field-manager=gitops"]], ids=["client", "server"])
async def test_task_applied_while_the_operator_is_away(
    namespace: TaskNamespace, tmp_path: Path, options: list[str]
) -> None:
    """It is no success before an operator has seen it, and nothing that is written later differs from its manifest."""
    spec = specs.changed(specs.CLASSICAL, image=SUCCEEDS)
    manifest = tmp_path / "task.json"
    manifest.write_text(json.dumps(specs.task("task", spec, namespace.name)))

    async def kubectl(command: str) -> str:
        kubeconfig = f"--kubeconfig={namespace.plane.kubeconfig()}"
        line = ["kubectl", kubeconfig, command, f"--filename={manifest}", *options]
        done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, check=False)
        return str(done.stdout + done.stderr)

    assert "task" in await kubectl("apply")
    assert compute_kstatus(await namespace.get_task("task"))[0] == "InProgress"
    async with namespace.operator():
        task = await namespace.wait_for_state("task", "Succeeded")
    assert compute_kstatus(task)[0] == "Current"
    assert get_true_conditions(task) == {"Accepted", "Complete"}
    assert await kubectl("diff") == ""
