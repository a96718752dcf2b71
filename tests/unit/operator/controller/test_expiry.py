"""Tasks that are deleted some time after their end, by `runPolicy.deleteTask`."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from support.in_memory_api_server import FakeCluster, FakeRecorder, job_condition, pod, terminated
from support.reconcile import KEY, add_task, get_job, run_pod
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.reconciler import REQUEUE_UNTIL_RECORDED, Reconciler
from trainingtask_operator.settings import Settings

COMPLETED = datetime.fromisoformat(job_condition("Complete")["lastTransitionTime"])
POLICY = {"ttlSecondsAfterFinished": 60, "deleteTask": True}


class Clock:
    """The reconciler's clock, which a test sets."""

    now = COMPLETED

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(cluster: FakeCluster, settings: Settings, recorder: FakeRecorder, clock: Clock) -> Reconciler:
    return Reconciler(cluster, cluster, settings, recorder, clock=clock)


async def finish_task(cluster: FakeCluster, reconciler: Reconciler, policy: dict[str, Any] = POLICY) -> dict[str, Any]:
    """Return a task that has succeeded."""
    task = add_task(cluster, runPolicy=policy)
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Succeeded", state=terminated(0))]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    return task


async def test_a_finished_task_is_deleted_when_its_time_is_over(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, clock: Clock
) -> None:
    await finish_task(cluster, reconciler)
    clock.now = COMPLETED + timedelta(seconds=20)
    assert await reconciler.reconcile(*KEY) == timedelta(seconds=40)
    assert KEY in cluster.tasks
    clock.now = COMPLETED + timedelta(seconds=60)
    await reconciler.reconcile(*KEY)
    assert KEY not in cluster.tasks
    assert await reconciler.reconcile(*KEY) is None
    assert [row.status for row in recorder.rows] == ["Succeeded"]


async def test_a_task_is_deleted_though_its_job_is_gone(
    cluster: FakeCluster, reconciler: Reconciler, clock: Clock
) -> None:
    """The TTL controller may be first; and a new operator has only the task."""
    await finish_task(cluster, reconciler)
    cluster.jobs.clear()
    cluster.pods.clear()
    clock.now = COMPLETED + timedelta(seconds=61)
    await reconciler.reconcile(*KEY)
    assert KEY not in cluster.tasks


async def test_an_expired_task_stays_until_its_end_is_recorded(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, clock: Clock
) -> None:
    await finish_task(cluster, reconciler)
    recorder.is_unavailable = True
    clock.now = COMPLETED + timedelta(hours=1)
    assert await reconciler.reconcile(*KEY) == REQUEUE_UNTIL_RECORDED
    assert KEY in cluster.tasks
    recorder.is_unavailable = False
    await reconciler.reconcile(*KEY)
    assert KEY not in cluster.tasks


async def test_without_a_history_an_expired_task_stays(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, clock: Clock
) -> None:
    await finish_task(cluster, reconciler)
    recorder.has_history = False
    clock.now = COMPLETED + timedelta(hours=1)
    assert await reconciler.reconcile(*KEY) is None
    assert KEY in cluster.tasks


async def test_a_task_stays_that_does_not_ask_to_be_deleted(
    cluster: FakeCluster, reconciler: Reconciler, clock: Clock
) -> None:
    await finish_task(cluster, reconciler, {"ttlSecondsAfterFinished": 60})
    clock.now = COMPLETED + timedelta(hours=1)
    assert await reconciler.reconcile(*KEY) is None
    assert KEY in cluster.tasks


async def test_a_task_that_has_changed_is_not_deleted(
    cluster: FakeCluster, reconciler: Reconciler, clock: Clock
) -> None:
    task = await finish_task(cluster, reconciler)
    clock.now = COMPLETED + timedelta(hours=1)

    def change(call: str) -> None:
        if call == "delete task":
            task["metadata"]["resourceVersion"] = "99"
            task["spec"]["runPolicy"]["deleteTask"] = False

    cluster.before_each = change
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    assert await reconciler.reconcile(*KEY) is None
    assert KEY in cluster.tasks


async def test_a_task_and_a_job_that_may_not_be_changed_are_left(
    cluster: FakeCluster, reconciler: Reconciler, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Their namespace was taken out of trainer.namespaces."""
    await finish_task(cluster, reconciler)
    clock.now = COMPLETED + timedelta(hours=1)

    def refuse(call: str) -> None:
        if call in ("delete task", "patch job"):
            raise ClusterError(403, f"may not {call}")

    cluster.before_each = refuse
    assert await reconciler.reconcile(*KEY) is None
    assert "trainer.namespaces of the Helm chart? may not patch job" in caplog.text
    assert "trainer.namespaces of the Helm chart? may not delete task" in caplog.text
