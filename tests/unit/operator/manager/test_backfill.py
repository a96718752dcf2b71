"""Which finished tasks are enqueued after a start."""

import asyncio
from typing import Any

from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.history.recorder import Recorder
from trainingtask_operator.kube_objects import Key, Object, is_finished
from trainingtask_operator.manager.backfill import Backfill


class PartialRecorder(Recorder):
    """A history that lacks one task."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        self.batches: list[int] = []

    async def find_recorded(self, tasks: list[Object]) -> set[str]:
        self.batches.append(len(tasks))
        return {task["metadata"]["uid"] for task in tasks} - {self.missing}


async def test_of_a_thousand_finished_tasks_only_the_unrecorded_is_enqueued() -> None:
    tasks, recorder = ObjectStore(is_finished), PartialRecorder("uid-t77")
    queue: WorkQueue[Key] = WorkQueue()
    backfill = Backfill(tasks, queue, recorder)
    for name in (f"t{number}" for number in range(1000)):
        status: dict[str, Any] = {"conditions": [{"type": "Complete", "status": "True"}]}
        tasks.put(("n", name), f"uid-{name}", {"metadata": {"uid": f"uid-{name}"}, "spec": {}, "status": status})
    backfill.add(tasks)
    running = asyncio.create_task(backfill.run())
    async with asyncio.timeout(5):
        key = await queue.get()
    assert key == ("n", "t77")
    for _ in range(100):
        await asyncio.sleep(0)
    assert (sum(recorder.batches), max(recorder.batches)) == (1000, 200)
    assert len(queue) == 0
    running.cancel()
