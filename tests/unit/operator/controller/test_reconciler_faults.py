"""Reconciles after deletions, edits, rejected and lost requests."""

import json
from dataclasses import replace

import pytest

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_job, run_pod
from support.results import RESULTS
from trainingtask_api import names
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import parse_time
from trainingtask_operator.settings import Settings

ENDED = parse_time(terminated(3)["terminated"]["finishedAt"])


async def test_a_deleted_job_of_a_trained_task_is_not_created_again(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    cluster.jobs.clear()
    cluster.pods.clear()
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "JobDeleted"
    assert cluster.jobs == {}
    assert [(row.status, row.error_reason) for row in recorder.rows] == [("Failed", "JobDeleted")]


async def test_a_job_without_its_labels_is_adopted_and_labelled_again(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    labels = get_job(cluster, task)["metadata"].pop("labels")
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["metadata"]["labels"] == labels
    assert task["status"]["state"] == "Running"


async def test_a_terminating_job_counts_as_deleted_before_its_pods_are_gone(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    get_job(cluster, task)["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "JobDeleted"


async def test_a_suspension_leaves_the_row_open_until_the_task_finishes(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    task["spec"]["runPolicy"] = {"suspend": True}
    stopping = pod(task, phase="Failed", state=terminated(143))
    stopping["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    cluster.pods[task["metadata"]["uid"]] = [stopping]
    await reconciler.reconcile(*KEY)
    assert [(row.status, row.finish_time) for row in recorder.rows] == [("Suspended", None)]

    task["spec"]["runPolicy"] = {"suspend": False}
    resumed = pod(task, phase="Running", state=running("2026-01-01T00:02:03Z"), created="2026-01-01T00:02:00Z")
    cluster.pods[task["metadata"]["uid"]] = [resumed]
    await reconciler.reconcile(*KEY)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Succeeded")]


async def test_an_attempt_after_a_failed_one_keeps_its_number_when_suspended(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    """Kubernetes counts the failures of an index anew after a suspension."""
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    first = pod(task, phase="Failed", state=terminated(1))
    resumed = pod(task, phase="Running", attempt=1, state=running(), created="2026-01-01T00:03:00Z")
    cluster.pods[task["metadata"]["uid"]] = [first, resumed]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"]) == ("Running", 2)
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Running")]


async def test_a_pod_on_a_lost_node_is_interrupted(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "gone"}
    lost = pod(task, phase="Running", state=running(), conditions=[disruption])
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    cluster.pods[task["metadata"]["uid"]] = [lost]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "NodeLost")


async def test_a_rejected_job_writes_the_status_once(cluster: FakeCluster, reconciler: Reconciler) -> None:
    add_task(cluster)

    def refuse(what: str) -> None:
        if what == "create job":
            raise ClusterError(403, "exceeded quota: small")

    cluster.before_each = refuse
    for _ in range(3):
        with pytest.raises(ClusterError):
            await reconciler.reconcile(*KEY)
    assert cluster.requests.count("apply status") == 1, "refused, and then nothing new"
    assert len(cluster.events) == 1


async def test_a_status_of_another_release_does_not_train_a_finished_task_again(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    cluster.jobs.clear()
    cluster.pods.clear()
    task["status"]["training"] = {"fieldOfTheFuture": 1}
    task["status"]["anotherOne"] = 2
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}


async def test_a_rejected_report_does_not_delay_the_terminal_status(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    report = {"attempt": 1, "phase": "Done", "finishTime": "2026-01-01T00:01:02Z"}
    done = pod(task, phase="Succeeded", state=terminated(0, json.dumps(report), "Completed"))
    cluster.pods[task["metadata"]["uid"]] = [done]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    refusals = ["apply status"]

    def refuse(what: str) -> None:
        if what in refusals:
            refusals.remove(what)
            raise ClusterError(422, "invalid")

    cluster.before_each = refuse
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"


async def test_a_device_that_the_cluster_does_not_offer_is_named(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    none = settings.model_copy(update={"devices": {}})
    await Reconciler(cluster, cluster, none, recorder, clock=lambda: NOW).reconcile(*KEY)
    assert get_condition(task, "Accepted")["reason"] == "DeviceNotOffered"


async def test_terminal_is_sticky_and_a_vanished_job_never_trains_again(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    ended = json.dumps(task["status"])
    cluster.jobs.clear()
    cluster.pods.clear()
    requests = len(cluster.requests)
    await reconciler.reconcile(*KEY)
    assert (json.dumps(task["status"]), cluster.jobs, len(cluster.requests)) == (ended, {}, requests)


async def test_the_ttl_is_set_only_when_the_end_is_on_record(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"ttlSecondsAfterFinished": 9})
    await run_pod(cluster, reconciler, task)
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    assert "ttlSecondsAfterFinished" not in get_job(cluster, task)["spec"]
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["ttlSecondsAfterFinished"] == 9


async def test_the_termination_message_restores_a_report_that_was_not_sent(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    report = {"attempt": 1, "phase": "Done", "score": "0.512", "finishTime": "2026-01-01T00:01:02Z"}
    cluster.pods[task["metadata"]["uid"]] = [
        pod(task, phase="Succeeded", state=terminated(0, json.dumps(report), "Completed"))
    ]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    assert task["status"]["training"] == report
    assert task["status"]["state"] == "Succeeded"
    requests = len(cluster.requests)
    await reconciler.reconcile(*KEY)
    assert len(cluster.requests) == requests, "repaired once"


async def test_a_truncated_termination_message_never_replaces_the_full_report(
    cluster: FakeCluster, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    report = {"attempt": 1, "phase": "Done", "finishTime": "2026-01-01T00:01:02Z"}
    cluster.pods[task["metadata"]["uid"]] = [
        pod(task, phase="Succeeded", state=terminated(0, json.dumps(report), "Completed"))
    ]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    lagging = cluster.observe(*KEY)
    full = report | {"score": "0.512"}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": full}, manager=names.TRAINER_FIELD_MANAGER)
    monkeypatch.setattr(cluster, "observe", lambda *_: lagging)
    await reconciler.reconcile(*KEY)
    assert task["status"]["training"] == full
    assert task["status"]["state"] == "Succeeded"


async def test_the_end_of_a_trainer_is_read_from_the_live_pods(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = add_task(cluster, runPolicy__retries=0)
    await run_pod(cluster, reconciler, task)
    before = cluster.observe(*KEY)
    assert before is not None
    labelled = pod(task, attempt=7, phase="Failed", state=terminated(9, "Not a pod of the task", "Error"))
    labelled["metadata"]["ownerReferences"] = []
    own = pod(task, phase="Failed", state=terminated(3, "Boom", "Error"))
    cluster.pods[task["metadata"]["uid"]] = [own, labelled]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", reason="BackoffLimitExceeded")]}
    lagging = replace(before, job=get_job(cluster, task))
    monkeypatch.setattr(cluster, "observe", lambda *_: lagging)
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "TrainerCrashed"
    assert [record["exitCode"] for record in task["status"]["attempts"]] == [3]
    row = recorder.rows[-1]
    assert (row.error_reason, row.finish_time) == ("TrainerCrashed", ENDED)
    finished = replace(lagging, task=cluster.tasks[KEY])
    monkeypatch.setattr(cluster, "observe", lambda *_: finished)
    await reconciler.reconcile(*KEY)
    row = recorder.rows[-1]
    assert (row.error_reason, row.finish_time) == ("TrainerCrashed", ENDED), "the watch of pods still lags"


async def test_a_job_deleted_with_its_namespace_cancels_the_task(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    cluster.terminating_namespaces.add("default")
    cluster.jobs.clear()
    cluster.pods.clear()
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "Cancelled"
    assert [row.status for row in recorder.rows] == ["Cancelled"]


async def test_a_write_is_retried_after_a_conflict(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    refused = ["apply status"]

    def conflict(what: str) -> None:
        if what in refused:
            refused.remove(what)
            raise ClusterError(409, "the object has been modified")

    cluster.before_each = conflict
    with pytest.raises(ClusterError, match="modified"):  # the queue brings it again
        await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Pending"


async def test_a_task_succeeds_if_its_job_vanishes_after_the_results(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    report = {"attempt": 1, "phase": "Done", "finishTime": "2026-01-01T00:01:02Z", "results": RESULTS.to_json()}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": report}, manager=names.TRAINER_FIELD_MANAGER)
    cluster.jobs.clear()
    cluster.pods.clear()
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert [row.status for row in recorder.rows][-1] == "Succeeded"


async def test_an_unprepared_namespace_is_refused_with_the_remedy(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    elsewhere = settings.model_copy(update={"namespaces": ["ml"]})
    await Reconciler(cluster, cluster, elsewhere, recorder, clock=lambda: NOW).reconcile(*KEY)
    assert get_condition(task, "Accepted")["reason"] == "NamespaceNotPrepared"
    assert "trainer.namespaces" in get_condition(task, "Accepted")["message"]
    assert cluster.jobs == {}


async def test_a_rejected_job_is_reported_and_retried(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)

    def refuse(what: str) -> None:
        if what == "create job":
            raise ClusterError(403, "exceeded quota: small")

    cluster.before_each = refuse
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    assert get_condition(task, "Accepted")["reason"] == "JobRefused"
    assert "exceeded quota: small" in get_condition(task, "Accepted")["message"]


async def test_an_invalid_spec_is_reported_once(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = cluster.add_task(
        specs.task("t", {"dataset": {"name": "support_tickets"}, "model": {"name": "bert"}, "newField": 1})
    )
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Accepted")["reason"] == "InvalidSpec"
    assert "newField" in get_condition(task, "Accepted")["message"]
    assert cluster.requests == ["apply status"]


async def test_an_edited_status_is_rebuilt(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    task["status"] = {"conditions": "garbage", "attempt": "many"}
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"


async def test_a_task_recreated_meanwhile_gets_no_status_of_the_old_one(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    add_task(cluster)

    def recreate(what: str) -> None:
        if what == "apply status":
            cluster.before_each = lambda _: None
            add_task(cluster)

    cluster.before_each = recreate
    await reconciler.reconcile(*KEY)
    assert "status" not in cluster.tasks[KEY]


async def test_a_deleted_task_needs_nothing(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    task["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:10Z"
    await reconciler.reconcile(*KEY)
    cluster.tasks.clear()
    await reconciler.reconcile(*KEY)
    assert cluster.requests == []


async def test_a_task_deleted_unfinished_is_forgotten(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    assert reconciler._recorded_uids
    cluster.tasks.clear()
    await reconciler.reconcile(*KEY)
    assert not reconciler._recorded_uids


async def test_labels_of_the_job_find_the_task(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    labels = get_job(cluster, task)["spec"]["template"]["metadata"]["labels"]
    assert (labels[names.TASK_NAME_LABEL], labels[names.TASK_UID_LABEL]) == ("t", task["metadata"]["uid"])


async def test_a_terminating_namespace_cancels_the_task_and_deletes_its_job(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    stopped = pod(task, phase="Failed", state=terminated(143))
    stopped["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    cluster.pods[task["metadata"]["uid"]] = [stopped]
    await reconciler.reconcile(*KEY)
    assert cluster.jobs, "a pod deleted by hand is no reason"

    cluster.terminating_namespaces.add("default")
    lost = ["delete job"]

    def lose(what: str) -> None:
        if what in lost:
            lost.remove(what)
            raise ClusterError(0, "lost")

    cluster.before_each = lose
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}
    assert get_condition(task, "Failed")["reason"] == "Cancelled"
    assert [(row.status, row.error_reason, row.finish_time is None) for row in recorder.rows] == [
        ("Cancelled", "Cancelled", False)
    ]
