"""The JobSet of a task on several nodes."""

import re
from typing import Any

import pytest

from support import specs
from support.groups import TRAINER_SPEC
from trainingtask_api import AttemptRecord, TrainingTask, TrainingTaskStatus, names
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.controller.jobset_builder import build_jobset, build_jobset_name, build_main_address
from trainingtask_operator.settings import Settings


def make_task(name: str = "my-task", **changes: Any) -> TrainingTask:
    manifest = specs.task(name, specs.changed(TRAINER_SPEC, **changes))
    manifest["metadata"]["uid"] = "uid-1"
    return TrainingTask.model_validate(manifest)


def get_child_job(jobset: dict[str, Any]) -> Any:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == (names.REPLICATED_JOB, 1)
    return replicated["template"]


def test_each_node_gets_a_pod_and_a_failure_of_one_fails_the_job(settings: Settings) -> None:
    job = get_child_job(build_jobset(make_task(resources__nodes=3), settings))["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 3, 3, 0)


def test_the_pods_are_those_of_a_job_but_for_the_count_and_the_address(settings: Settings) -> None:
    task = make_task()
    jobset, job = build_jobset(task, settings), build_job(task, settings)
    template = get_child_job(jobset)["spec"]["template"]
    assert template["metadata"]["annotations"].pop(names.FORMER_ATTEMPTS_ANNOTATION) == "0"
    assert template["metadata"] == job["spec"]["template"]["metadata"]
    assert jobset["metadata"] | {"name": ""} == job["metadata"] | {"name": ""}
    (container,), (jobs_container,) = (
        template["spec"].pop("containers"),
        job["spec"]["template"]["spec"].pop("containers"),
    )
    assert template["spec"] == job["spec"]["template"]["spec"]
    env, jobs_env = container.pop("env"), jobs_container.pop("env")
    assert container == jobs_container
    assert [item for item in env if item not in jobs_env] == [
        {
            "name": names.ENV_FAILURE_COUNT,
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{names.RESTART_COUNT_ANNOTATION}']"}},
        },
        {"name": names.ENV_IGNORED_FAILURE_COUNT, "value": "0"},
        {"name": names.ENV_MAIN_ADDRESS, "value": build_main_address(task)},
    ]


@pytest.mark.parametrize(
    ("reasons", "former"), [([], "0"), ([None], "0"), (["PodFailed"], "1"), (["PodFailed", "PodLost", None], "2")]
)
def test_pods_and_trainers_count_on_from_the_attempts_that_have_ended(
    settings: Settings, reasons: list[str | None], former: str
) -> None:
    task = make_task()
    records = [AttemptRecord(number=number, reason=reason) for number, reason in enumerate(reasons, 1)]
    task = task.model_copy(update={"status": TrainingTaskStatus(attempts=records)})
    template = get_child_job(build_jobset(task, settings))["spec"]["template"]
    assert template["metadata"]["annotations"][names.FORMER_ATTEMPTS_ANNOTATION] == former
    (container,) = template["spec"]["containers"]
    assert {"name": names.ENV_IGNORED_FAILURE_COUNT, "value": former} in container["env"]


@pytest.mark.parametrize("name", ["a", "x" * 63, "dots.in.it", "1-of-many", "9" * 63, "a" * 32 + ".b"])
def test_names_of_a_jobset_and_of_its_pods_are_dns_labels(name: str) -> None:
    made = build_jobset_name(make_task(name))
    for label in (made, f"{made}-{names.REPLICATED_JOB}-0-63-abcde"):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", label)


def test_the_main_address_is_the_host_name_of_the_pod_with_index_0() -> None:
    task = make_task()
    name = build_jobset_name(task)
    assert build_main_address(task) == f"{name}-trainer-0-0.{name}"


# The Job controller's condition of a failed Job -> the action of the first rule that matches.
FAILURES = {
    "user-error": (
        "PodFailurePolicy",
        "Container trainer for pod ml/t-trainer-0-1-x failed with exit code 64 matching FailJob rule at index 0",
        "FailJobSet",
    ),
    "disruption": (
        "PodFailurePolicy",
        "Pod ml/t-trainer-0-1-x has condition DisruptionTarget matching FailJob rule at index 1",
        "RestartJobSetAndIgnoreMaxRestarts",
    ),
    "deadline": ("DeadlineExceeded", "Job was active longer than specified deadline", "FailJobSet"),
    "fault": ("BackoffLimitExceeded", "Job has reached the specified backoff limit", None),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_failure_policy_acts_by_reason_and_message_of_the_job(settings: Settings, failure: str) -> None:
    reason, message, action = FAILURES[failure]
    policy = build_jobset(make_task(runPolicy={"retries": 5}), settings)["spec"]["failurePolicy"]
    matching = [
        rule["action"]
        for rule in policy["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(p, message) for p in rule.get("onJobFailureMessagePatterns", [""]))
    ]
    assert matching == ([action] if action else []), "without a rule, JobSet counts a restart"
    assert policy["maxRestarts"] == 5


def test_the_queue_and_the_suspension_are_those_of_the_jobset_alone(settings: Settings) -> None:
    jobset = build_jobset(make_task(runPolicy={"queueName": "team"}), settings)
    assert jobset["metadata"]["labels"][names.QUEUE_LABEL] == "team"
    assert jobset["spec"]["suspend"] is True
    child = get_child_job(jobset)
    assert names.QUEUE_LABEL not in child["metadata"]["labels"]
    assert child["metadata"]["labels"][names.TASK_UID_LABEL] == "uid-1"


def test_each_attempts_job_has_the_deadline_as_well(settings: Settings) -> None:
    jobset = build_jobset(make_task(runPolicy={"activeDeadlineSeconds": 60}), settings)
    assert get_child_job(jobset)["spec"]["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in jobset["spec"]
