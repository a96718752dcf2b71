"""What the status remembers of attempts: numbers, ends and reasons outlive the pods."""

from typing import Any

from support import specs
from support.in_memory_api_server import FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_job, run_pod
from support.results import RESULTS
from trainingtask_api import TrainingTask, TrainingTaskStatus
from trainingtask_operator.controller.attempts import MAX_ATTEMPT_RECORDS, build_attempts
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.controller.run_records import select_log_pods


def get_records(task: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(a["number"], a.get("reason"), a.get("exitCode"), a.get("finishTime")) for a in task["status"]["attempts"]]


async def test_an_attempt_outlives_its_pod(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    uid = task["metadata"]["uid"]
    cluster.pods[uid] = [pod(task, phase="Failed", state=terminated(137, reason="OOMKilled"))]
    await reconciler.reconcile(*KEY)
    interrupted = get_condition(task, "Interrupted")
    ended = [(1, "OOMKilled", 137, "2026-01-01T00:01:03Z")]
    assert get_records(task) == ended

    cluster.pods[uid] = []
    await reconciler.reconcile(*KEY)
    assert (get_records(task), get_condition(task, "Interrupted")) == (ended, interrupted)
    assert cluster.requests.count("apply status") == 3, "a deleted pod changes nothing"

    # Its own count is 1: the failed pod does not exist any more, and the Job was suspended meanwhile.
    later = pod(task, phase="Running", state=running("2026-01-01T00:02:20Z"), created="2026-01-01T00:02:10Z")
    cluster.pods[uid] = [later]
    await reconciler.reconcile(*KEY)
    assert get_records(task) == [*ended, (2, None, None, None)]
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Running")]
    first, second = (row.id for row in recorder.rows)
    assert [reason for run, kind, reason in recorder.events if (run, kind) == (first, "Accepted")] == ["Accepted"]
    assert "Accepted" not in {kind for run, kind, _ in recorder.events if run == second}, "the transition was before it"


async def test_a_resumed_task_continues_the_same_attempt(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = []
    task["spec"]["runPolicy"] = {"suspend": True}
    await reconciler.reconcile(*KEY)
    task["spec"]["runPolicy"] = {"suspend": False}
    cluster.pods[task["metadata"]["uid"]] = [
        pod(task, phase="Running", state=running("2026-01-01T00:02:03Z"), created="2026-01-01T00:02:00Z")
    ]
    await reconciler.reconcile(*KEY)
    assert [number for number, *_ in get_records(task)] == [1]


async def test_an_attempt_whose_end_was_not_observed_is_closed(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    third = pod(task, phase="Running", attempt=3, state=running("2026-01-01T00:01:30Z"), created="2026-01-01T00:01:20Z")
    cluster.pods[task["metadata"]["uid"]] = [third]
    await reconciler.reconcile(*KEY)
    assert [(number, reason) for number, reason, *_ in get_records(task)] == [(1, "PodLost"), (2, "PodLost"), (3, None)]
    assert [(row.attempt, row.status, row.error_reason, row.finish_time is None) for row in recorder.rows] == [
        (1, "Failed", "PodLost", False),
        (2, "Failed", "PodLost", False),
        (3, "Running", None, True),
    ]


async def test_the_report_explains_an_attempt_whose_end_was_not_observed(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    failure = {"reason": "HubUnavailable", "message": "The hub is away.", "phase": "Loading"}
    report = {"attempt": 1, "phase": "Failed", "finishTime": "2026-01-01T00:01:00Z", "failure": failure}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": report}, manager="trainingtask-trainer")
    cluster.pods[task["metadata"]["uid"]] = [
        pod(task, phase="Running", attempt=2, state=running("2026-01-01T00:01:30Z"), created="2026-01-01T00:01:20Z")
    ]
    await reconciler.reconcile(*KEY)
    first = recorder.rows[0]
    assert (first.error_reason, first.error_message) == ("HubUnavailable", "The hub is away.")
    assert first.finish_time is not None
    assert first.finish_time.isoformat() == "2026-01-01T00:01:00+00:00"


async def test_a_report_of_a_pod_with_a_reset_count_changes_no_earlier_attempt(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    """Kubernetes resets the count when a Job is suspended: the second attempt reports as the first."""
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    uid = task["metadata"]["uid"]
    cluster.pods[uid] = [pod(task, phase="Failed", state=terminated(143))]
    await reconciler.reconcile(*KEY)
    second = pod(task, phase="Running", state=running("2026-01-01T00:01:30Z"), created="2026-01-01T00:01:20Z")
    cluster.pods[uid] = [second]
    await reconciler.reconcile(*KEY)
    report = {"attempt": 1, "phase": "Done", "results": RESULTS.to_json(), "finishTime": "2026-01-01T00:01:50Z"}
    await cluster.apply_status(*KEY, uid, {"training": report}, manager="trainingtask-trainer")
    await reconciler.reconcile(*KEY)
    assert [(number, reason) for number, reason, *_ in get_records(task)] == [(1, "Interrupted"), (2, None)]
    assert task["status"]["state"] == "Running"


async def test_the_latest_sixteen_attempts_are_kept(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    cluster.pods[task["metadata"]["uid"]] = [
        pod(
            task,
            phase="Failed",
            attempt=number,
            state=terminated(1),
            created=f"2026-01-01T00:{number:02d}:00Z",
        )
        for number in range(1, 21)
    ]
    await reconciler.reconcile(*KEY)
    numbers = [number for number, *_ in get_records(task)]
    assert (len(numbers), numbers[0], numbers[-1]) == (MAX_ATTEMPT_RECORDS, 5, 20)


async def test_a_failed_task_keeps_the_reason_of_each_attempt(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"activeDeadlineSeconds": 7})
    await run_pod(cluster, reconciler, task)
    stopped = pod(task, phase="Failed", state=terminated(143))
    stopped["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    cluster.pods[task["metadata"]["uid"]] = [stopped]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", "DeadlineExceeded")]}
    await reconciler.reconcile(*KEY)
    assert get_records(task) == [(1, "DeadlineExceeded", 143, "2026-01-01T00:01:03Z")]


def test_logs_of_failed_and_of_deleted_pods_are_selected() -> None:
    cluster = FakeCluster()
    manifest = cluster.add_task(specs.task("t", specs.CLASSICAL))
    task = TrainingTask.model_validate(manifest)
    failed = pod(manifest, phase="Failed", state=terminated(1))
    runs = pod(manifest, phase="Running", attempt=2, state=running(), created="2026-01-01T00:01:20Z")
    attempts = build_attempts([failed, runs])
    assert list(select_log_pods(task, attempts).values()) == [failed["metadata"]["name"]]
    assert list(select_log_pods(task, attempts, is_deleting=True).values()) == [
        p["metadata"]["name"] for p in (failed, runs)
    ]


def test_edited_attempt_records_are_no_crash() -> None:
    cluster = FakeCluster()
    task = cluster.add_task(specs.task("t", specs.CLASSICAL))
    odd = TrainingTaskStatus.model_validate({"attempts": [{"number": -7}, {"number": 2**70, "pod": "x"}]})
    found = build_attempts([pod(task)], odd)
    assert len(found) <= MAX_ATTEMPT_RECORDS
