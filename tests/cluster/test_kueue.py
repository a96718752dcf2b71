"""A real Kueue: quota, priority, a default queue, all Jobs of a namespace, suspension, deletion, and groups of pods.

All but the tests with real trainers use a fake node, whose pods run until they are deleted; each takes the whole quota.
"""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.addons import QUEUE, create_queue, install_addons, manage_jobs_without_queue_name
from support.kubectl import Kubectl, eventually, run
from support.node_pair import Group
from support.object_store import Bucket
from support.release import RELEASE, SYSTEM
from support.s3_server import S3Server
from support.task_bucket import BUCKET, TABLE, name_keys
from trainingtask_api import names

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "queue-with-kueue.md"
Apply = Callable[..., str]
WAIT_SECONDS = 300
SHORT = "insufficient unused quota for cpu in flavor default, 1 more needed"
FAKE = specs.changed(specs.CLASSICAL, resources={"profile": "fake", "cpu": "1", "memory": "1Gi"})
QUEUED = specs.changed(FAKE, runPolicy={"queueName": QUEUE, "retries": 0})
URGENT = "trainingtask-test-urgent"


@pytest.fixture(scope="module")
def queue(kubectl: Kubectl) -> Iterator[str]:
    """Create a queue with the quota of two pods; return its name."""
    with install_addons("jobset", "kueue"), create_queue(kubectl, cpu="1", memory="3Gi"):
        yield QUEUE


@pytest.fixture
def first(kubectl: Kubectl, queue: str, nodes: None, task: Apply) -> str:
    """Return a task that runs, and takes the whole quota; the tasks of the last test are gone."""
    earlier = f"{names.TASK_NAME_LABEL} in (first,second,urgent,later)"
    eventually("no Jobs", lambda: not kubectl.find("jobs", earlier))
    task("first", QUEUED)
    wait_for_state(kubectl, "first", "Running")
    return "first"


@pytest.fixture
def default_queue(kubectl: Kubectl, queue: str) -> Iterator[None]:
    """Create the LocalQueue whose label Kueue gives every Job of the namespace."""
    kubectl.apply(
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "LocalQueue",
            "metadata": {"name": "default"},
            "spec": {"clusterQueue": queue},
        }
    )
    yield
    kubectl("delete", "localqueue", "default")


@pytest.fixture
def urgent(kubectl: Kubectl, queue: str) -> Iterator[str]:
    """Create a WorkloadPriorityClass; return its name."""
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass", "metadata": {"name": URGENT}}
    kubectl.apply({**kind, "value": 1000})
    yield URGENT
    kubectl("delete", "workloadpriorityclass", URGENT)


def wait_for_state(kubectl: Kubectl, task: str, state: str) -> None:
    def get_status() -> bool:
        status = kubectl.status(task)
        assert status.get("state") != "Failed" or state == "Failed", status
        return bool(status.get("state") == state)

    eventually(f"{task} is {state}", get_status, WAIT_SECONDS)


def wait_for_suspension(kubectl: Kubectl, task: str, value: bool) -> None:
    eventually(f"{task}: Suspended={value}", lambda: kubectl.condition(task, "Suspended").get("status") == str(value))


def wait_for_words(kubectl: Kubectl, task: str, *parts: str, timeout: float = WAIT_SECONDS) -> str:
    """Wait until the task waits for quota, with these words; return its message."""

    def get_message() -> str | None:
        running = kubectl.condition(task, "Running")
        message: str = running.get("message", "")
        return message if running.get("reason") == "WaitingForQuota" and all(p in message for p in parts) else None

    return eventually(f"{task} waits: {parts}", get_message, timeout)


def get_workload(kubectl: Kubectl, task: str) -> dict[str, Any]:
    """Return Kueue's Workload of the task's Job, {} when there is none."""
    uids = [job["metadata"]["uid"] for job in kubectl.jobs(task)]
    found = kubectl.find("workloads", f"kueue.x-k8s.io/job-uid={uids[0]}") if uids else []
    return found[0] if found else {}


def get_words(workload: dict[str, Any]) -> str:
    conditions = workload.get("status", {}).get("conditions", [])
    return next((str(c["message"]) for c in conditions if c["type"] == "QuotaReserved"), "")


def suspend(kubectl: Kubectl, task: str, value: bool) -> None:
    patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
    kubectl("patch", "trainingtask", task, "--type=merge", "--patch", patch)


def read_positions(kubectl: Kubectl) -> list[tuple[str, int]]:
    """Return Job and position of what waits in the queue, by the guide's command as a user with the guide's role."""
    text = GUIDE.read_text(encoding="utf-8")
    (command,) = re.findall(r"^kubectl get --raw \S+/pendingworkloads$", text, re.MULTILINE)
    (role,) = re.findall(r"Kueue's ClusterRole `(\S+)`", text)
    kubectl("create", "rolebinding", "asks-kueue", f"--clusterrole={role}", "--user=jane")
    try:
        answer = run(*shlex.split(command.replace("/ml-team/", f"/{kubectl.namespace}/")), "--as=jane")
    finally:
        kubectl("delete", "rolebinding", "asks-kueue")
    items = json.loads(answer)["items"]
    return [(item["metadata"]["ownerReferences"][0]["name"], item["positionInLocalQueue"]) for item in items]


def count_job_patches(name: str) -> int:
    """Return how often the operator has patched a Job, from the API server's audit log."""
    count = 0
    for file in (Path(os.environ["KUBECONFIG"]).parent / "logs").glob("audit*.log"):
        with file.open() as lines:
            for event in (json.loads(line) for line in lines if name in line):
                target = event.get("objectRef") or {}
                is_operator = event["user"]["username"] == f"system:serviceaccount:{SYSTEM}:{RELEASE}"
                is_job = (target.get("resource"), target.get("name")) == ("jobs", name)
                count += is_operator and is_job and event["verb"] in ("patch", "update")
    return count


def test_a_waiting_task_says_what_is_short_and_starts_by_itself(kubectl: Kubectl, first: str, task: Apply) -> None:
    task("second", QUEUED)
    eventually("Kueue's words", lambda: SHORT in get_words(get_workload(kubectl, "second")))
    message = wait_for_words(kubectl, "second", f"Queue '{QUEUE}'", SHORT)
    assert message.endswith("It starts by itself when there is quota.")
    assert read_positions(kubectl) == [(kubectl.status("second")["jobName"], 0)]
    assert kubectl.pods("second") == []
    kubectl("delete", "trainingtask", first)
    wait_for_state(kubectl, "second", "Running")


def test_queued_tasks_are_suspended_and_resumed(kubectl: Kubectl, first: str, task: Apply) -> None:
    task("second", QUEUED)
    wait_for_words(kubectl, "second", SHORT)
    suspend(kubectl, "second", True)
    wait_for_state(kubectl, "second", "Suspended")
    assert get_workload(kubectl, "second")["spec"]["active"] is False
    suspend(kubectl, first, True)
    eventually("no pod", lambda: not kubectl.pods(first))
    assert kubectl.pods("second") == [], "there is quota, but it is suspended"
    suspend(kubectl, "second", False)
    wait_for_state(kubectl, "second", "Running")
    suspend(kubectl, first, False)
    wait_for_words(kubectl, first, SHORT)
    assert kubectl.status(first)["attempt"] == 1


def test_an_urgent_task_preempts_another_which_is_queued_again(
    kubectl: Kubectl, first: str, urgent: str, task: Apply
) -> None:
    task("urgent", specs.changed(QUEUED, runPolicy__workloadPriorityClassName=urgent))
    wait_for_state(kubectl, "urgent", "Running")
    wait_for_words(kubectl, first, "took the quota back (Preempted)")
    assert kubectl.pods(first) == []
    kubectl("delete", "trainingtask", "urgent")
    wait_for_state(kubectl, first, "Running")
    status = kubectl.status(first)
    assert [(attempt["number"], attempt.get("reason")) for attempt in status["attempts"]] == [(1, None)]


def test_a_deactivated_task_waits_until_it_is_activated(kubectl: Kubectl, first: str) -> None:
    def activate(value: bool) -> None:
        patch = json.dumps({"spec": {"active": value}})
        kubectl("patch", "workload", workload, "--type=merge", "--patch", patch)

    workload = get_workload(kubectl, first)["metadata"]["name"]
    activate(False)
    eventually("JobSuspended", lambda: kubectl.condition(first, "Running").get("reason") == "JobSuspended")
    assert f"kubectl patch workload {workload}" in kubectl.condition(first, "Running")["message"]
    for value in (True, False):
        suspend(kubectl, first, value)
        wait_for_suspension(kubectl, first, value)
    assert get_workload(kubectl, first)["spec"]["active"] is False, "the operator leaves it so"
    activate(True)
    wait_for_state(kubectl, first, "Running")


def test_a_task_deleted_while_it_is_queued_leaves_nothing(kubectl: Kubectl, first: str, task: Apply) -> None:
    task("second", QUEUED)
    wait_for_words(kubectl, "second", SHORT)
    workload = get_workload(kubectl, "second")["metadata"]["name"]
    kubectl("delete", "trainingtask", "second")
    eventually("no Job", lambda: not kubectl.jobs("second"))
    eventually("no Workload", lambda: workload not in [w["metadata"]["name"] for w in kubectl.find("workloads")])


def test_a_default_queue_holds_jobs_that_the_operator_leaves_alone(
    kubectl: Kubectl, first: str, default_queue: None, task: Apply
) -> None:
    task("later", specs.changed(FAKE, runPolicy={"suspend": True}))
    task("second", FAKE)
    wait_for_words(kubectl, "second", "Queue 'default'", SHORT)
    assert kubectl.jobs("later") == [], "the queue would start it"
    for number in range(3):  # each makes the operator reconcile the task
        kubectl("label", "trainingtask", "second", f"try={number}", "--overwrite")
    kubectl("delete", "trainingtask", first)
    wait_for_state(kubectl, "second", "Running")
    (job,) = kubectl.jobs("second")
    assert job["metadata"]["generation"] == 2, "Kueue resumed it once, and nobody else did anything"
    suspend(kubectl, "second", True)
    wait_for_state(kubectl, "second", "Suspended")
    suspend(kubectl, "later", False)
    wait_for_state(kubectl, "later", "Running")
    suspend(kubectl, "second", False)
    wait_for_words(kubectl, "second", "Queue 'default'", SHORT)
    assert count_job_patches(job["metadata"]["name"]) == 0


@pytest.mark.full
def test_kueue_may_manage_the_jobs_of_a_whole_namespace(kubectl: Kubectl, queue: str, nodes: None, task: Apply) -> None:
    with manage_jobs_without_queue_name(kubectl):
        task("unnamed", FAKE)
        wait_for_words(kubectl, "unnamed", "this one names no queue")
        (job,) = kubectl.jobs("unnamed")
        kubectl("label", "job", job["metadata"]["name"], f"kueue.x-k8s.io/queue-name={queue}")
        wait_for_state(kubectl, "unnamed", "Running")
        suspend(kubectl, "unnamed", True)
        eventually("no pod", lambda: not kubectl.pods("unnamed"))
        suspend(kubectl, "unnamed", False)
        wait_for_state(kubectl, "unnamed", "Running")
        assert count_job_patches(job["metadata"]["name"]) == 0


def build_spec(name: str, queue: str, nodes: int) -> dict[str, Any]:
    return {
        "dataset": TABLE,
        "model": {"name": "bert", "uri": f"s3://{BUCKET}/bert"},
        "training": {"epochs": 1000, "batchSize": 8, "checkpointSteps": 5},
        "env": name_keys(),
        "output": {"uri": f"s3://{BUCKET}/models/{name}"},
        "resources": {"cpu": "500m", "memory": "1536Mi", "nodes": nodes},
        "runPolicy": {"queueName": queue},
    }


def test_tasks_take_turns_and_a_group_starts_only_whole(
    kubectl: Kubectl, task: Apply, store: tuple[S3Server, Bucket], queue: str
) -> None:
    single, pair = (Group(kubectl, task(name, build_spec(name, queue, n))) for name, n in (("alone", 1), ("both", 2)))

    def wait_for_quota(waiting: Group) -> None:
        def waits() -> bool:
            status = kubectl.status(waiting.name)
            return status.get("reason") == "WaitingForQuota" and not kubectl.pods(waiting.name)

        eventually(f"{waiting.name} waits for quota", waits, WAIT_SECONDS)

    kubectl.wait_for_training("alone")
    wait_for_quota(pair)  # one of its pods would fit

    single.set_suspend(True)
    pods = pair.wait_for_attempt(1)
    assert set(pods) == {0, 1}
    single.set_suspend(False)
    wait_for_quota(single)
    reached = pair.wait_for_steps()

    pair.set_suspend(True)
    single.wait_for_resume(1)
    pair.set_suspend(False)
    wait_for_quota(pair)

    kubectl("delete", "trainingtask", "alone")
    pair.wait_for_resume(reached)
    assert kubectl.status("both")["attempt"] == 1
