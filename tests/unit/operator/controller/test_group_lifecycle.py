"""Reconciles of a task on several nodes beside its faults: deadline, suspension, queue, deletion, and what it waits for."""

from datetime import timedelta

import pytest

from support.groups import add_group, group_pod, run_group, set_jobset_condition, set_pods, start_group
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, kueue_workload, running, terminated
from support.reconcile import KEY, get_condition, get_condition_status, get_job
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.group_attempts import describe_nodes
from trainingtask_operator.controller.reconciler import (
    REQUEUE_UNTIL_CLAIM,
    REQUEUE_UNTIL_JOBSET,
    REQUEUE_UNTIL_RECORDED,
    Reconciler,
)
from trainingtask_operator.kube_objects import KubeEvent, Object
from trainingtask_operator.settings import Settings


async def test_the_operator_ends_all_attempts_at_the_deadline(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    now = [NOW - timedelta(seconds=60)]
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: now[0])
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 100, "retries": 3})
    await reconciler.reconcile(*KEY)  # the JobSet is created at 00:00:01
    await reconciler.reconcile(*KEY)
    run_group(cluster, task, restarts=1)
    assert await reconciler.reconcile(*KEY) == timedelta(seconds=41), "until 00:01:41"
    now[0] = NOW
    lost = ["delete jobset"]

    def lose(call: str) -> None:
        if call in lost:
            lost.remove(call)
            raise ClusterError(0, "lost")

    cluster.before_each = lose
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded", "stored before the JobSet is deleted"
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}
    assert [(row.attempt, row.error_reason) for row in recorder.rows][-1] == (2, "DeadlineExceeded")
    assert recorder.rows[-1].id in recorder.log_pods, "read while the pod has its grace period"


async def test_the_deadline_begins_anew_when_the_group_is_resumed(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 100})
    await reconciler.reconcile(*KEY)
    task["spec"]["runPolicy"]["suspend"] = True
    await reconciler.reconcile(*KEY)
    set_jobset_condition(cluster, task, "Suspended", "SuspendedJobs")
    assert await reconciler.reconcile(*KEY) is None, "a suspended group is not active"
    task["spec"]["runPolicy"]["suspend"] = False
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["suspend"] is False
    set_jobset_condition(cluster, task, "Suspended", "ResumeJobs", status="False", at="00:01:30")
    assert await reconciler.reconcile(*KEY) == timedelta(seconds=70)


async def test_a_jobset_that_fails_by_its_jobs_deadline_has_exceeded_the_deadline(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 3600})
    await start_group(cluster, reconciler, task)
    stopped = [group_pod(task, i, phase="Failed", state=terminated(143)) for i in range(2)]
    set_pods(cluster, task, *stopped)
    set_jobset_condition(cluster, task, "Failed", "FailJobSetFailurePolicyAction", at="01:00:01")
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"


OWN_FAILURE = {"reason": "InvalidData", "message": "No rows.", "phase": "Loading"}
PEERS_FAILURE = {"reason": "PeerLost", "message": "Rank 1 is lost.", "phase": "Loading"}
AT_ONCE = "FailJobSetFailurePolicyAction"


@pytest.mark.parametrize(
    ("attempt", "failure", "reason", "at", "expected"),
    [
        (1, OWN_FAILURE, AT_ONCE, "00:01:04", "InvalidData"),
        (1, OWN_FAILURE, AT_ONCE, "01:00:01", "InvalidData"),
        (1, OWN_FAILURE, "DeadlineExceeded", "01:00:01", "DeadlineExceeded"),  # the cache takes it from the Job
        (1, None, AT_ONCE, "00:01:04", "JobFailed"),
        (1, None, AT_ONCE, "01:00:00", "JobFailed"),
        (1, None, AT_ONCE, "01:00:01", "DeadlineExceeded"),
        (1, PEERS_FAILURE, AT_ONCE, "01:00:01", "DeadlineExceeded"),
        (1, PEERS_FAILURE, AT_ONCE, "00:01:04", "JobFailed"),
        (2, OWN_FAILURE, AT_ONCE, "00:01:04", "InvalidData"),
        (2, None, AT_ONCE, "00:01:04", "JobFailed"),  # not what ended the attempt before
        (2, OWN_FAILURE, "ReachedMaxRestarts", "00:01:04", "RetriesExhausted"),
    ],
)
async def test_a_jobset_that_fails_without_pods_has_the_reported_failure_and_else_the_deadline_once_it_is_over(
    cluster: FakeCluster,
    reconciler: Reconciler,
    attempt: int,
    failure: Object | None,
    reason: str,
    at: str,
    expected: str,
) -> None:
    """Its pods are gone with their nodes before the operator sees how they ended."""
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 3600, "retries": 1})
    await start_group(cluster, reconciler, task)
    if attempt == 2:
        set_pods(cluster, task, group_pod(task, 1, phase="Failed", state=terminated(137, reason="OOMKilled")))
        await reconciler.reconcile(*KEY)
        run_group(cluster, task, restarts=1)
        await reconciler.reconcile(*KEY)
    report = {"attempt": attempt, "phase": "Failed", "finishTime": "2026-01-01T00:01:02Z", "failure": failure}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": report}, manager="trainingtask-trainer")
    set_pods(cluster, task)
    set_jobset_condition(cluster, task, "Failed", reason, at=at)
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert failed["reason"] == expected
    if failure == OWN_FAILURE and expected != "DeadlineExceeded":
        assert "No rows." in failed["message"]


async def test_a_suspended_group_goes_on_with_the_same_attempt(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    task["spec"]["runPolicy"] = {"suspend": True}
    stopping = [group_pod(task, i, phase="Failed", state=terminated(143)) for i in range(2)]
    for pod in stopping:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    set_pods(cluster, task, *stopping)
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["suspend"] is True
    assert [(row.status, row.finish_time) for row in recorder.rows] == [("Suspended", None)]

    task["spec"]["runPolicy"] = {"suspend": False}
    created = "2026-01-01T00:02:00Z"
    resumed = [
        group_pod(task, i, phase="Running", state=running("2026-01-01T00:02:03Z"), created=created) for i in range(2)
    ]
    set_pods(cluster, task, *stopping, *resumed)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"]) == ("Running", 1)
    assert task["status"]["podUid"] == resumed[0]["metadata"]["uid"]
    assert get_job(cluster, task)["spec"]["suspend"] is False


async def test_a_queued_group_waits_and_is_suspended_by_its_workload(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster, runPolicy={"queueName": "team"})
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert task["status"]["reason"] == "WaitingForQuota"
    uid = get_job(cluster, task)["metadata"]["uid"]
    cluster.workloads[uid] = kueue_workload()
    task["spec"]["runPolicy"]["suspend"] = True
    await reconciler.reconcile(*KEY)
    assert cluster.workloads[uid]["spec"]["active"] is False


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_deleted_jobset_of_a_trained_task_is_not_created_again(
    cluster: FakeCluster, reconciler: Reconciler, is_deleted: bool
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    if is_deleted:
        cluster.jobs.clear()
    else:
        get_job(cluster, task)["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert (failed["reason"], "JobSet" in failed["message"]) == ("JobDeleted", True)
    assert cluster.requests.count("create jobset") == 1


async def test_a_jobset_without_its_labels_is_adopted(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    labels = get_job(cluster, task)["metadata"].pop("labels")
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["metadata"]["labels"] == labels
    assert task["status"]["state"] == "Running"


async def test_a_foreign_jobset_of_the_name_is_a_conflict(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster)
    await reconciler.reconcile(*KEY)
    get_job(cluster, task)["metadata"] |= {"labels": {}, "ownerReferences": [{"uid": "another-uid"}]}
    assert await reconciler.reconcile(*KEY) is not None
    accepted = get_condition(task, "Accepted")
    assert (accepted["reason"], accepted["message"].startswith("JobSet")) == ("NameConflict", True)


async def test_a_cluster_without_jobset_is_named_until_it_has_it(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster)
    cluster.serves_jobsets = False
    for _ in range(2):
        assert await reconciler.reconcile(*KEY) == REQUEUE_UNTIL_JOBSET
    accepted = get_condition(task, "Accepted")
    assert (accepted["reason"], "jobset.sigs.k8s.io" in accepted["message"]) == ("JobSetNotInstalled", True)
    assert cluster.requests.count("apply status") == 1
    cluster.serves_jobsets = True
    await start_group(cluster, reconciler, task)
    assert (get_condition_status(task, "Accepted"), task["status"]["state"]) == ("True", "Running")


async def test_a_trained_group_waits_while_its_kind_is_not_served(cluster: FakeCluster, reconciler: Reconciler) -> None:
    """An API server that restarts serves no custom resources for a moment; JobSet may also be removed."""
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    jobs, cluster.jobs, cluster.serves_jobsets = cluster.jobs, {}, False
    assert await reconciler.reconcile(*KEY) == REQUEUE_UNTIL_JOBSET
    assert get_condition(task, "Accepted")["reason"] == "JobSetNotInstalled"
    assert len(task["status"]["attempts"]) == 1
    cluster.jobs, cluster.serves_jobsets = jobs, True
    await reconciler.reconcile(*KEY)
    assert (get_condition_status(task, "Accepted"), task["status"]["state"]) == ("True", "Running")


@pytest.mark.parametrize(
    ("spec", "modes", "accepted"),
    [
        ({"output": {"volumeClaim": "c"}}, ["ReadWriteOnce"], False),
        ({"output": {"volumeClaim": "c"}}, ["ReadWriteOncePod", "ReadOnlyMany"], False),
        ({"output": {"volumeClaim": "c"}}, ["ReadWriteOnce", "ReadWriteMany"], True),
        ({"dataset": {"name": "table", "volumeClaim": "c", "path": "a.csv"}}, ["ReadWriteOnce"], False),
        ({"dataset": {"name": "table", "volumeClaim": "c", "path": "a.csv"}}, ["ReadOnlyMany"], True),
        ({"dataset": {"name": "table", "volumeClaim": "c", "path": "a.csv"}}, None, True),
    ],
)
async def test_claims_of_a_group_must_be_mountable_on_all_nodes(
    cluster: FakeCluster, reconciler: Reconciler, spec: Object, modes: list[str] | None, accepted: bool
) -> None:
    task = add_group(cluster, **spec)
    if modes is not None:  # a claim that does not exist yet is waited for, as for a Job
        cluster.claims["default", "c"] = modes
    requeue_after = await reconciler.reconcile(*KEY)
    assert bool(cluster.jobs) == accepted
    if not accepted:
        condition = get_condition(task, "Accepted")
        assert (condition["reason"], requeue_after) == ("ClaimNotShared", REQUEUE_UNTIL_CLAIM)
        assert all(word in condition["message"] for word in ["'c'", *(modes or []), "ReadWriteMany"])


async def test_the_claims_of_a_task_on_one_node_are_not_read(cluster: FakeCluster, reconciler: Reconciler) -> None:
    cluster.claims["default", "c"] = ["ReadWriteOnce"]
    add_group(cluster, resources={"nodes": 1}, output={"volumeClaim": "c"})
    await reconciler.reconcile(*KEY)
    assert cluster.requests == ["create job", "apply status"]


async def test_the_ttl_of_a_group_is_set_once_its_end_is_recorded(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster, runPolicy={"ttlSecondsAfterFinished": 9})
    await start_group(cluster, reconciler, task)
    set_jobset_condition(cluster, task, "Completed", "AllJobsCompleted")
    recorder.is_unavailable = True
    await reconciler.reconcile(*KEY)
    assert await reconciler.reconcile(*KEY) == REQUEUE_UNTIL_RECORDED
    assert "ttlSecondsAfterFinished" not in get_job(cluster, task)["spec"]
    recorder.is_unavailable = False
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["ttlSecondsAfterFinished"] == 9


async def test_the_pod_of_a_group_that_cannot_start_says_why(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster)
    await reconciler.reconcile(*KEY)
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    set_pods(
        cluster,
        task,
        group_pod(task, 0, phase="Running", state=running()),
        group_pod(task, 1, conditions=[full]),
    )
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "Unschedulable")


async def test_a_pod_of_a_group_that_cannot_be_created_says_why(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster)
    await reconciler.reconcile(*KEY)
    set_pods(cluster, task, group_pod(task, 0, phase="Running", state=running()))
    refused = KubeEvent("exceeded quota: small", 1, NOW)
    cluster.kube_events[get_job(cluster, task)["metadata"]["uid"]] = refused
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "QuotaExceeded")


async def test_a_group_in_a_terminating_namespace_is_cancelled_and_deleted(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    cluster.terminating_namespaces.add("default")
    stopped = [group_pod(task, i, phase="Failed", state=terminated(143)) for i in range(2)]
    for pod in stopped:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    set_pods(cluster, task, *stopped)
    await reconciler.reconcile(*KEY)
    assert (get_condition(task, "Failed")["reason"], cluster.jobs) == ("Cancelled", {})


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([], None),
        (["a"], "a"),
        (["a", "b"], "a, b (2 nodes)"),
        (list("abcdefgh"), "a, b, c, d, e, f, g, h (8 nodes)"),
        (list("abcdefghijk"), "a, b, c, d, e, f, g, h and 3 more"),
        (["x" * 63] * 9, f"{', '.join(['x' * 63] * 3)} and 6 more"),
        (["x" * 253] * 2, "2 nodes"),
    ],
)
def test_nodes_are_named_as_far_as_the_status_has_room(nodes: list[str], text: str | None) -> None:
    assert describe_nodes(nodes) == text
