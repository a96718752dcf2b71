"""Which finished tasks are enqueued after a start."""

import asyncio
from typing import Any

import pytest

from support import specs
from trainingtask_api import names
from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.history.recorder import Recorder
from trainingtask_operator.kube_objects import Key, Object
from trainingtask_operator.manager.backfill import Backfill
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import Settings


class PartialRecorder(Recorder):
    """A history that lacks one task."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        self.batches: list[int] = []

    async def find_recorded(self, tasks: list[Object]) -> set[str]:
        self.batches.append(len(tasks))
        return {task["metadata"]["uid"] for task in tasks} - {self.missing}


async def test_of_a_thousand_finished_tasks_only_the_unrecorded_is_enqueued() -> None:
    cache, recorder = AssumeCache(), PartialRecorder("uid-t77")
    queue: WorkQueue[Key] = WorkQueue()
    backfill = Backfill(cache, queue, recorder)
    for name in (f"t{number}" for number in range(1000)):
        status: dict[str, Any] = {"conditions": [{"type": "Complete", "status": "True"}]}
        metadata = {"namespace": "n", "uid": f"uid-{name}"}
        cache.tasks.put(("n", name), f"uid-{name}", {"metadata": metadata, "spec": {}, "status": status})
    backfill.add(cache.tasks)
    running = asyncio.create_task(backfill.run())
    async with asyncio.timeout(60):
        key = await queue.get()
    assert key == ("n", "t77")
    for _ in range(100):
        await asyncio.sleep(0)
    assert (sum(recorder.batches), max(recorder.batches)) == (1000, 200)
    assert len(queue) == 0
    running.cancel()


@pytest.mark.parametrize("ended", [False, True])
async def test_a_finished_task_whose_job_was_not_deleted_is_enqueued(ended: bool, settings: Settings) -> None:
    """The former process ended between the task's status and the deletion of its Job, which runs on beside a sidecar."""
    manager = Manager(settings)  # without a history there is nothing else to do for a finished task
    metadata = {"namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
    task = specs.task("t", specs.CLASSICAL)
    task["metadata"] |= {**metadata, "uid": "uid-t"}
    task["status"] = {"state": "Succeeded", "conditions": [{"type": "Complete", "status": "True"}]}
    job = {
        "kind": "Job",
        "metadata": {
            **metadata,
            "name": "t",
            "uid": "uid-job",
            "labels": {names.TASK_UID_LABEL: "uid-t", names.TASK_NAME_LABEL: "t"},
            "ownerReferences": [{"uid": "uid-t", "controller": True}],
        },
        "spec": {},
        "status": {"conditions": [{"type": "Complete", "status": "True"}] if ended else []},
    }
    manager.event_handlers.on_job_event(None, job)
    manager.event_handlers.on_task_event(None, task)
    running = asyncio.create_task(manager.backfill.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert manager.backfill._pending == {}
    assert len(manager.queue) == (0 if ended else 1)
    running.cancel()
