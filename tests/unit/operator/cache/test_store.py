"""The watched objects in memory: found by key, replaced by uid, packed once they are over."""

from typing import Any

from trainingtask_api import names
from trainingtask_operator.cache.store import Index, differ, is_on_its_way, only_training_differs
from trainingtask_operator.cache.transform import kept_job


def task(uid: str, state: str = "Running", **training: Any) -> dict[str, Any]:
    metadata = {"uid": uid, "resourceVersion": "1", "name": "t", "namespace": "n"}
    return {"metadata": metadata, "spec": {"a": [1, 2]}, "status": {"state": state, "training": training}}


def ended(item: dict[str, Any]) -> bool:
    return bool(item["status"]["state"] == "Succeeded")


def test_what_is_over_is_packed_and_reads_as_before() -> None:
    index = Index(ended)
    index.put("k", "1", task("1"))
    assert (index.open_keys(), index.not_over("1")) == (["k"], task("1"))
    index.put("k", "1", task("1", "Succeeded", loss=0.25))
    assert (index.open_keys(), index.not_over("1"), index.has("1")) == ([], None, True)
    assert index["k"] == [task("1", "Succeeded", loss=0.25)]


def test_an_object_that_moves_to_another_key_is_under_that_one_alone() -> None:
    index = Index()
    index.put("a", "1", task("1"))
    index.put("a", "2", task("2"))
    index.put("b", "1", task("1"))
    assert (index["a"], index["b"], index.uids()) == ([task("2")], [task("1")], {"1", "2"})
    for uid in ("1", "2", "2", "never there"):
        index.remove(uid)
    assert (len(index), index.uids(), index.get("a", [])) == (0, set(), [])


def test_a_new_version_alone_is_no_difference() -> None:
    before, after = task("1"), task("1")
    after["metadata"]["resourceVersion"] = "2"
    assert not differ(before, after)
    after["spec"]["a"] = [1]
    assert differ(before, after)


def test_a_report_of_progress_is_told_from_one_that_ends_the_training() -> None:
    assert only_training_differs(task("1", step=1), task("1", step=2))
    assert not only_training_differs(task("1", step=1), task("1", step=2, finishTime="2026-01-01T00:00:00Z"))
    assert not only_training_differs(task("1"), task("1", "Suspended"))


def test_the_counts_of_a_job_are_not_kept_for_nothing_reads_them() -> None:
    identity = {"uid": "1", "name": "j", "namespace": "n", "resourceVersion": "1"}
    identity["creationTimestamp"] = "2026-01-01T00:00:00Z"
    body = {"metadata": {**identity, "managedFields": [1]}, "spec": {"suspend": False, "template": {}}}
    start = "2026-01-01T00:00:00Z"
    kept = kept_job({**body, "status": {"active": 1, "startTime": start, "conditions": []}})
    assert kept["status"] == {"startTime": start, "conditions": []}
    assert kept["spec"] == {"suspend": False}
    assert kept["metadata"] == {**identity, "labels": {}, "ownerReferences": []}


def test_a_pod_is_on_its_way_until_it_runs_or_is_in_trouble() -> None:
    def pod(phase: str, waiting: str = "ContainerCreating", scheduled: str = "True") -> dict[str, Any]:
        condition = {
            "type": "PodScheduled",
            "status": scheduled,
            "reason": "" if scheduled == "True" else "Unschedulable",
        }
        container = {"name": names.TRAINER_CONTAINER, "state": {"waiting": {"reason": waiting}}}
        status = {"phase": phase, "conditions": [condition], "containerStatuses": [container]}
        return {"kind": "Pod", "metadata": {"uid": "1"}, "status": status}

    assert is_on_its_way(pod("Pending"))
    assert not is_on_its_way(pod("Pending", waiting="ImagePullBackOff"))
    assert not is_on_its_way(pod("Pending", scheduled="False"))
    assert not is_on_its_way(pod("Running"))
    assert not is_on_its_way(pod("Failed"))


def test_a_success_is_on_its_way_until_the_job_is_complete() -> None:
    def job(*true: str) -> dict[str, Any]:
        conditions = [{"type": kind, "status": "True"} for kind in true]
        return {"kind": "Job", "metadata": {"uid": "1"}, "status": {"conditions": conditions}}

    assert is_on_its_way({"kind": "Pod", "metadata": {"uid": "1"}, "status": {"phase": "Succeeded"}})
    assert is_on_its_way(job("SuccessCriteriaMet"))
    assert not is_on_its_way(job("SuccessCriteriaMet", "Complete"))
    assert not is_on_its_way(job("FailureTarget"))
    assert not is_on_its_way(job("Suspended"))
