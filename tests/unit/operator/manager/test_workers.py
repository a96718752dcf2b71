"""Workers, and what a failed reconcile does to the others."""

import asyncio
from typing import Any

import pytest

from support.virtual_time import in_virtual_time
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.kube_objects import Key
from trainingtask_operator.manager.workers import run_worker


@in_virtual_time
async def test_a_defect_in_one_task_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    class DefectiveReconciler:
        async def reconcile(self, namespace: str, name: str) -> None:
            tried.append(name)
            if name == "bad" and tried.count(name) < 3:
                raise RuntimeError("a defect")

    reconciler: Any = DefectiveReconciler()
    queue: WorkQueue[Key] = WorkQueue()
    worker = asyncio.create_task(run_worker(queue, reconciler, queue.done))
    for name in ("bad", "good"):
        queue.add(("n", name))
    await asyncio.sleep(60)
    assert tried == ["bad", "good", "bad", "bad"], "retried until it succeeds"
    assert caplog.text.count("RuntimeError: a defect") == 2
    queue.stop()
    await worker
