"""Tasks whose Jobs Kueue, or somebody else, has suspended: left alone, and told why."""

from datetime import timedelta
from typing import Any

import pytest

from support.groups import add_group
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, kueue_workload, pod, running
from support.reconcile import KEY, add_task, get_condition, get_condition_status, get_job, run_pod
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.kueue import WORKLOAD_GRACE
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.settings import KueueSettings, Settings

QUEUE = "kueue.x-k8s.io/queue-name"
MARK = "trainingtask.dev/suspended"
SHORT = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"kueue": KueueSettings(enabled=True)})


def set_suspend(task: dict[str, Any], value: bool) -> None:
    task["spec"]["runPolicy"] = {**task["spec"].get("runPolicy", {}), "suspend": value}


async def suspend_and_resume(reconciler: Reconciler, task: dict[str, Any]) -> None:
    """Suspend the task as its user does, and resume it, each with a reconcile."""
    for suspend in (True, False):
        set_suspend(task, suspend)
        await reconciler.reconcile(*KEY)


def get_running(task: dict[str, Any]) -> tuple[str, str]:
    found = get_condition(task, "Running")
    return found["reason"], found["message"]


async def queue_job(cluster: FakeCluster, reconciler: Reconciler, task: dict[str, Any]) -> dict[str, Any]:
    """Reconcile a new task as Kueue's webhook and controller change its Job; return its Workload."""
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    job["metadata"]["labels"][QUEUE] = "default"
    job["spec"]["suspend"] = True
    workload = cluster.workloads[job["metadata"]["uid"]] = kueue_workload("default")
    await reconciler.reconcile(*KEY)
    return workload


@pytest.mark.parametrize("is_enabled", [True, False])
@pytest.mark.parametrize("add", [add_task, add_group])
async def test_a_job_that_a_default_queue_suspends_is_left_alone(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder, add: Any, is_enabled: bool
) -> None:
    settings = settings.model_copy(update={"kueue": KueueSettings(enabled=is_enabled)})
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
    task = add(cluster)
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    job["metadata"]["labels"][QUEUE] = "default"
    job["spec"]["suspend"] = True
    for _ in range(3):
        await reconciler.reconcile(*KEY)
    assert not any(request.startswith("patch") for request in cluster.requests)
    reason, message = get_running(task)
    assert (task["status"]["state"], reason) == ("Pending", "WaitingForQuota")
    assert "Queue 'default'" in message
    assert ("kueue.enabled" in message) is not is_enabled
    assert ("is Kueue installed" in message) is is_enabled, "there is no Workload"
    assert cluster.events == [], "to wait for its turn is no reason for a Warning"


async def test_a_job_that_somebody_suspended_waits_for_them(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    job = get_job(cluster, task)
    job["spec"]["suspend"] = True
    for suspend in (False, True, False):  # also when the user suspends and resumes the task meanwhile
        set_suspend(task, suspend)
        await reconciler.reconcile(*KEY)
    assert job["spec"]["suspend"] is True
    reason, message = get_running(task)
    assert reason == "JobSuspended"
    assert f"kubectl patch job {job['metadata']['name']}" in message
    assert {event["reason"] for event in cluster.events} == {"JobSuspended"}
    job["spec"]["suspend"] = False
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"
    assert "patch job" not in cluster.requests


async def test_the_operators_own_suspension_is_marked_by_the_same_write(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    job = get_job(cluster, task)
    assert job["metadata"]["annotations"] == {MARK: "false"}
    lost = ["apply status"]

    def lose(call: str) -> None:
        if call in lost:
            raise ClusterError(0, "lost")

    cluster.before_each = lose
    set_suspend(task, True)
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    assert (job["spec"]["suspend"], job["metadata"]["annotations"]) == (True, {MARK: "true"})
    lost.clear()
    set_suspend(task, False)  # before any status says that the task was suspended
    await reconciler.reconcile(*KEY)
    assert (job["spec"]["suspend"], job["metadata"]["annotations"]) == (False, {MARK: "false"})


async def test_a_job_that_somebody_resumes_is_not_suspended_again_and_again(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    job = get_job(cluster, task)
    set_suspend(task, True)
    for _ in range(3):
        await reconciler.reconcile(*KEY)
        job["spec"]["suspend"] = False  # by Kueue, whose Workloads the operator does not watch
    assert cluster.requests.count("patch job") == 1
    assert (task["status"]["state"], get_condition(task, "Suspended")["reason"]) == ("Running", "QueueUnavailable")
    for suspend in (False, True):
        set_suspend(task, suspend)
        await reconciler.reconcile(*KEY)
    assert job["spec"]["suspend"] is True


async def test_a_suspended_job_of_an_earlier_release_is_resumed(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    job = get_job(cluster, task)
    set_suspend(task, True)
    await reconciler.reconcile(*KEY)
    del job["metadata"]["annotations"]
    job["metadata"]["annotations"] = {}
    set_suspend(task, False)
    await reconciler.reconcile(*KEY)
    assert job["spec"]["suspend"] is False


async def test_a_queued_task_is_suspended_and_resumed_through_its_workload(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster, runPolicy={"queueName": "team-a"})
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    uid = job["metadata"]["uid"]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][QUEUE] == "team-a"
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "WaitingForQuota")

    job["spec"]["suspend"] = False  # by Kueue
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"

    set_suspend(task, True)
    await reconciler.reconcile(*KEY)
    suspended = get_condition(task, "Suspended")
    assert (suspended["status"], suspended["reason"]) == ("False", "QueueUnavailable")
    assert "no Workload" in suspended["message"]
    assert task["status"]["state"] == "Running", "a task that cannot be stopped is not Suspended"
    workload = cluster.workloads[uid] = kueue_workload()
    await reconciler.reconcile(*KEY)
    assert (workload["spec"]["active"], workload["metadata"]["annotations"]) == (False, {MARK: "true"})
    assert task["status"]["state"] == "Suspended"
    job["spec"]["suspend"] = True  # by Kueue
    cluster.pods[task["metadata"]["uid"]] = []
    await reconciler.reconcile(*KEY)
    assert cluster.requests.count("patch workload") == 1, "the Workload is inactive already"

    set_suspend(task, False)
    await reconciler.reconcile(*KEY)
    assert (workload["spec"]["active"], workload["metadata"]["annotations"]) == (True, {MARK: "false"})
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "WaitingForQuota")
    assert "patch job" not in cluster.requests


async def test_without_kueue_enabled_a_queued_task_cannot_be_suspended(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    disabled = settings.model_copy(update={"kueue": KueueSettings()})
    reconciler = Reconciler(cluster, cluster, disabled, recorder, clock=lambda: NOW)
    task = add_task(cluster, runPolicy={"queueName": "team-a"})
    await run_pod(cluster, reconciler, task)
    await reconciler.reconcile(*KEY)
    set_suspend(task, True)
    await reconciler.reconcile(*KEY)
    assert get_condition_status(task, "Suspended") == "False"
    assert "kueue.enabled" in get_condition(task, "Suspended")["message"]
    assert not any(request.startswith("patch") for request in cluster.requests)


async def test_a_task_stays_suspended_while_its_workload_cannot_be_activated(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    workload = await queue_job(cluster, reconciler, task)
    set_suspend(task, True)
    await reconciler.reconcile(*KEY)
    set_suspend(task, False)

    def refuse(call: str) -> None:
        if call == "patch workload":
            raise ClusterError(403, "may not")

    cluster.before_each = refuse
    await reconciler.reconcile(*KEY)
    suspended = get_condition(task, "Suspended")
    assert (suspended["status"], suspended["reason"]) == ("True", "QueueUnavailable")
    cluster.before_each = lambda _: None
    await reconciler.reconcile(*KEY)
    assert (get_condition_status(task, "Suspended"), workload["spec"]["active"]) == ("False", True)


async def test_a_workload_that_somebody_deactivated_is_left_inactive(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    workload = await queue_job(cluster, reconciler, task)
    workload["spec"]["active"] = False
    evicted = {"type": "Evicted", "status": "True", "reason": "DeactivatedDueToRequeuingLimitExceeded"}
    workload["status"]["conditions"] = [{**evicted, "message": "exceeding the maximum number of re-queuing retries"}]
    for suspend in (False, True, False):
        set_suspend(task, suspend)
        await reconciler.reconcile(*KEY)
        assert workload["spec"]["active"] is False
    reason, message = get_running(task)
    assert reason == "JobSuspended"
    assert "kubectl patch workload job-w" in message
    assert "maximum number of re-queuing" in message


async def test_a_deactivation_at_the_same_moment_stays_somebody_elses(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    workload = await queue_job(cluster, reconciler, task)

    def deactivate(call: str) -> None:
        if call == "patch workload" and workload["spec"]["active"]:
            cluster.change(workload, {"spec": {"active": False}})

    cluster.before_each = deactivate
    set_suspend(task, True)
    with pytest.raises(ClusterError, match="modified"):
        await reconciler.reconcile(*KEY)
    await suspend_and_resume(reconciler, task)
    assert workload["spec"]["active"] is False


async def test_a_suspension_at_the_same_moment_stays_somebody_elses(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    job = get_job(cluster, task)

    def suspend_job(call: str) -> None:
        if call == "patch job" and not job["spec"]["suspend"]:
            cluster.change(job, {"spec": {"suspend": True}})

    cluster.before_each = suspend_job
    set_suspend(task, True)
    with pytest.raises(ClusterError, match="modified"):
        await reconciler.reconcile(*KEY)
    await suspend_and_resume(reconciler, task)
    assert job["spec"]["suspend"] is True


async def test_a_workload_made_and_deactivated_during_a_suspension_stays_inactive(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await queue_job(cluster, reconciler, task)
    set_suspend(task, True)
    await reconciler.reconcile(*KEY)
    workload = cluster.workloads[get_job(cluster, task)["metadata"]["uid"]] = kueue_workload("default")
    workload["metadata"]["creationTimestamp"] = "2026-01-01T00:03:00Z"
    workload["spec"]["active"] = False
    await suspend_and_resume(reconciler, task)
    assert workload["spec"]["active"] is False
    assert get_running(task)[0] == "JobSuspended"


WORDS: list[tuple[dict[str, Any], list[dict[str, Any]], list[str]]] = [
    ({}, [], ["Queue 'default' has not admitted the task yet: Kueue has not tried yet."]),
    ({"QuotaReserved": {"status": "False", "reason": "Pending", "message": SHORT}}, [], [SHORT, "when there is quota"]),
    (
        {
            "QuotaReserved": {"status": "False", "reason": "Pending", "message": SHORT},
            "Evicted": {"status": "True", "reason": "Preempted", "message": "Preempted to accommodate a workload"},
        },
        [],
        ["took the quota back (Preempted): Preempted to accommodate a workload", SHORT],
    ),
    (
        {
            "QuotaReserved": {"status": "True", "reason": "QuotaReserved", "message": "reserved"},
            "Admitted": {"status": "False", "reason": "NoChecks", "message": "checks"},
        },
        [{"name": "nodes", "state": "Pending", "message": "2 nodes are made"}, {"name": "other", "state": "Ready"}],
        ["has quota for the task, which waits for admission checks: 'nodes' is Pending: 2 nodes are made."],
    ),
    ({"Admitted": {"status": "True"}}, [], ["Queue 'default' has admitted the task"]),
    (
        {"Admitted": {"status": "True"}, "Evicted": {"status": "True", "reason": "Preempted", "message": "preempted"}},
        [],
        ["it took the quota back (Preempted): preempted."],
    ),
    (
        {
            "QuotaReserved": {"status": "False", "message": "The workload is deactivated"},
            "Evicted": {"status": "True", "reason": "Deactivated", "message": "The workload is deactivated"},
        },
        [],
        ["yet: Kueue has not tried yet."],
    ),
    ({"QuotaReserved": {"status": "False", "message": "x" * 9000}}, [], ["xxx…", "when there is quota."]),
]


@pytest.mark.parametrize(("conditions", "checks", "parts"), WORDS)
async def test_a_waiting_task_has_kueues_own_words(
    cluster: FakeCluster,
    reconciler: Reconciler,
    conditions: dict[str, Any],
    checks: list[dict[str, Any]],
    parts: list[str],
) -> None:
    task = add_task(cluster)
    workload = await queue_job(cluster, reconciler, task)
    workload["status"] = {
        "conditions": [{"type": kind, **condition} for kind, condition in conditions.items()],
        "admissionChecks": checks,
    }
    await reconciler.reconcile(*KEY)
    reason, message = get_running(task)
    assert reason == "WaitingForQuota"
    for part in parts:
        assert part in message
    writes = cluster.requests.count("apply status")
    await reconciler.reconcile(*KEY)
    assert cluster.requests.count("apply status") == writes, "the words are the same"


async def test_a_new_job_that_was_suspended_waits_a_moment_for_its_workload(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    now = NOW - timedelta(minutes=1, seconds=58)  # a second after its creation
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: now)
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    get_job(cluster, task)["spec"]["suspend"] = True  # without a queue, by manageJobsWithoutQueueName
    assert await reconciler.reconcile(*KEY) == WORKLOAD_GRACE - timedelta(seconds=1)
    assert get_running(task)[0] == "WaitingForQuota"
    now += WORKLOAD_GRACE
    assert await reconciler.reconcile(*KEY) is None
    assert get_running(task)[0] == "JobSuspended"
    cluster.workloads[get_job(cluster, task)["metadata"]["uid"]] = kueue_workload("")
    await reconciler.reconcile(*KEY)
    reason, message = get_running(task)
    assert reason == "WaitingForQuota"
    assert f"kubectl label job {get_job(cluster, task)['metadata']['name']} {QUEUE}=QUEUE" in message


async def test_a_job_without_a_workload_names_the_priority_that_may_be_missing(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster, runPolicy={"queueName": "team-a", "workloadPriorityClassName": "urgent"})
    await reconciler.reconcile(*KEY)
    assert "is there a WorkloadPriorityClass 'urgent'?" in get_running(task)[1]


async def test_a_suspended_task_gets_no_job(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"queueName": "team-a", "suspend": True})
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}, "Kueue would start it"
    assert task["status"]["state"] == "Suspended"
    set_suspend(task, False)
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["suspend"] is True
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "WaitingForQuota")
