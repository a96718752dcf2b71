"""A real Kueue: tasks wait for quota, and a task on two nodes is admitted only when both pods fit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.addons import QUEUE, create_queue, install_addons
from support.kubectl import Kubectl, eventually
from support.node_pair import Group
from support.object_store import Bucket
from support.s3_server import S3Server
from support.task_bucket import BUCKET, TABLE, name_keys

Apply = Callable[..., str]
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def queue(kubectl: Kubectl) -> Iterator[str]:
    """Create a queue with the quota of two pods; return its name."""
    with install_addons("jobset", "kueue"), create_queue(kubectl, cpu="1", memory="3Gi"):
        yield QUEUE


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
