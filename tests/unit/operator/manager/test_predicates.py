"""Which changes of an object need a reconcile, and how soon."""

from typing import Any

from trainingtask_api import names
from trainingtask_operator.manager.predicates import has_changed, is_low_priority, is_progress_report


def task(uid: str, state: str = "Running", **training: Any) -> dict[str, Any]:
    metadata = {"uid": uid, "resourceVersion": "1", "name": "t", "namespace": "n"}
    return {"metadata": metadata, "spec": {"a": [1, 2]}, "status": {"state": state, "training": training}}


def test_a_new_version_alone_is_no_difference() -> None:
    before, after = task("1"), task("1")
    after["metadata"]["resourceVersion"] = "2"
    assert not has_changed(before, after)
    after["spec"]["a"] = [1]
    assert has_changed(before, after)


def test_a_report_that_finishes_the_training_is_no_progress_report() -> None:
    assert is_progress_report(task("1", step=1), task("1", step=2))
    assert not is_progress_report(task("1", step=1), task("1", step=2, finishTime="2026-01-01T00:00:00Z"))
    assert not is_progress_report(task("1"), task("1", "Suspended"))


def test_a_pod_has_low_priority_until_it_runs_or_cannot_start() -> None:
    def pod(phase: str, waiting: str = "ContainerCreating", scheduled: str = "True") -> dict[str, Any]:
        condition = {
            "type": "PodScheduled",
            "status": scheduled,
            "reason": "" if scheduled == "True" else "Unschedulable",
        }
        container = {"name": names.TRAINER_CONTAINER, "state": {"waiting": {"reason": waiting}}}
        status = {"phase": phase, "conditions": [condition], "containerStatuses": [container]}
        return {"kind": "Pod", "metadata": {"uid": "1"}, "status": status}

    assert is_low_priority(pod("Pending"))
    assert not is_low_priority(pod("Pending", waiting="ImagePullBackOff"))
    assert not is_low_priority(pod("Pending", scheduled="False"))
    assert not is_low_priority(pod("Running"))
    assert not is_low_priority(pod("Failed"))


def test_a_success_has_low_priority_until_the_job_is_complete() -> None:
    def job(*true: str) -> dict[str, Any]:
        conditions = [{"type": kind, "status": "True"} for kind in true]
        return {"kind": "Job", "metadata": {"uid": "1"}, "status": {"conditions": conditions}}

    assert is_low_priority({"kind": "Pod", "metadata": {"uid": "1"}, "status": {"phase": "Succeeded"}})
    assert is_low_priority(job("SuccessCriteriaMet"))
    assert not is_low_priority(job("SuccessCriteriaMet", "Complete"))
    assert not is_low_priority(job("FailureTarget"))
    assert not is_low_priority(job("Suspended"))
