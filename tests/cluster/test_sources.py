"""Data from an S3 server and models to it: on a real cluster, with keys from a Secret, and while the server fails."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.kubectl import Kubectl, eventually
from support.object_store import Bucket
from support.plugin import Cli, get_output
from support.s3_server import SECRET, S3Server
from support.task_bucket import BUCKET, TABLE, TICKETS, list_folder, name_keys
from support.trainer_processes import kill_trainer

Apply = Callable[..., str]


def build_spec(output: str | None, **changes: Any) -> dict[str, Any]:
    """Return the spec of a classical training from the bucket's table into a folder of the bucket."""
    base: dict[str, Any] = {"dataset": TABLE, "model": {"name": "logistic_regression"}, "env": name_keys()}
    if output is not None:
        base["output"] = {"uri": f"s3://{BUCKET}/{output}"}
    return specs.changed(base, **changes)


def build_transformer_spec(output: str, **training: Any) -> dict[str, Any]:
    """Return the spec of a tiny transformer's training of 360 steps, about half a minute."""
    wanted = {"epochs": 20, "batchSize": 8, "checkpointSteps": 20, **training}
    return build_spec(output, model={"name": "bert", "uri": f"s3://{BUCKET}/bert"}, training=wanted)


def read_results(kubectl: Kubectl, task: str) -> dict[str, Any]:
    results: dict[str, Any] = kubectl.status(task)["training"]["results"]
    return results


def test_trains_from_a_bucket_into_a_bucket(
    kubectl: Kubectl, task: Apply, store: tuple[S3Server, Bucket], cli: Cli, tmp_path: Path
) -> None:
    _, bucket = store
    kubectl.wait(task("from-s3", build_spec("models/from-s3")), "Complete")
    results = read_results(kubectl, "from-s3")
    assert results["modelUri"] == f"s3://{BUCKET}/models/from-s3"
    (source,) = results["sources"]
    assert (source["field"], source["address"]) == ("dataset.uri", TABLE["uri"])
    (stored,) = source["objects"]
    assert stored["etag"] == bucket.client.head_object(Bucket=BUCKET, Key="tickets.csv")["ETag"]
    stored_names = list_folder(bucket, "models/from-s3")
    assert "trainingtask.json" in stored_names
    # The plugin reads the model with the trainer's keys: this machine has none.
    assert "billing" in get_output(cli("predict", "from-s3", "My card was charged twice"))
    get_output(cli("download", "from-s3", folder=tmp_path))
    assert {path.name for path in (tmp_path / "from-s3").iterdir()} == stored_names


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {  # spec, reason and a part of the message by task
    "unknown-key": (build_spec(None, env=name_keys("unknown")), "SourceDenied", "AWS_ACCESS_KEY_ID"),
    "expired-key": (build_spec(None, env=name_keys("expired")), "SourceDenied", "AWS_SESSION_TOKEN"),
    "no-bucket": (build_spec(None, dataset__uri="s3://not-a-bucket/a.csv"), "SourceNotFound", "'not-a-bucket'"),
    "no-object": (
        build_spec(None, dataset__uri=f"s3://{BUCKET}/a.csv"),
        "SourceNotFound",
        "there is no object of that name",
    ),
    "no-output": (build_spec("model", output__uri="s3://not-a-bucket/a"), "OutputDenied", "'not-a-bucket'"),
    "no-output-key": (build_spec("model", env=name_keys("unknown")), "OutputDenied", "AWS_ACCESS_KEY_ID"),
}


@pytest.fixture(scope="module")
def mistakes(kubectl: Kubectl, store: tuple[S3Server, Bucket]) -> Iterator[None]:
    """Apply all tasks of `MISTAKES` at once."""
    small = {"cpu": "250m", "memory": "1Gi"}
    kubectl.apply(
        *(specs.task(name, spec | {"resources": small}, kubectl.namespace) for name, (spec, *_) in MISTAKES.items())
    )
    yield
    kubectl("delete", "trainingtask", *MISTAKES, "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_key_or_address_fails_at_once_with_the_next_step(kubectl: Kubectl, mistakes: None, name: str) -> None:
    _, reason, words = MISTAKES[name]
    kubectl.wait(name, "Failed")
    failed = kubectl.condition(name, "Failed")
    assert (failed["reason"], words in failed["message"]) == (reason, True), failed
    assert len(kubectl.status(name)["attempts"]) == 1, "a mistake is not tried again"
    described = " ".join(kubectl("describe", "trainingtask", name).split())
    assert " ".join(failed["message"].split()) in described
    assert SECRET not in described


def is_first_read(request: tuple[str, str]) -> bool:
    return request == ("GET", f"/{BUCKET}/tickets.csv")


def is_weights(request: tuple[str, str]) -> bool:
    return request == ("GET", f"/{BUCKET}/bert/model.safetensors")


def is_checkpoint(request: tuple[str, str]) -> bool:
    return request[0] in ("PUT", "POST") and "checkpoint" in request[1]


def is_model(request: tuple[str, str]) -> bool:
    return request[0] in ("PUT", "POST") and request[1].endswith("model.safetensors") and "checkpoint" not in request[1]


@pytest.mark.full
@pytest.mark.parametrize(
    ("phase", "breaks_at"),
    [("loading", is_first_read), ("preprocessing", is_weights), ("training", is_checkpoint), ("saving", is_model)],
)
def test_a_minute_without_the_server_loses_nothing(
    kubectl: Kubectl, task: Apply, store: tuple[S3Server, Bucket], phase: str, breaks_at: Any
) -> None:
    server, bucket = store
    server.breaks_at = breaks_at
    name = task(f"away-while-{phase}", build_transformer_spec(f"models/away-{phase}", epochs=3))
    kubectl.wait(name, "Complete")
    assert [breaks_at(request) for request in server.outages[-1:]] == [True]
    assert len(kubectl.status(name)["attempts"]) == 1
    assert "resumedFromStep" not in read_results(kubectl, name)
    assert "trainingtask.json" in list_folder(bucket, f"models/away-{phase}")


@pytest.mark.full
def test_a_slow_server_is_waited_for_and_its_bytes_are_told(
    kubectl: Kubectl, task: Apply, store: tuple[S3Server, Bucket]
) -> None:
    server, bucket = store
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    content = "".join([rows[0], *rows[1:] * 800]).encode()  # 18 MB, in half a minute
    bucket.put({"large.csv": content})
    server.slow_path = f"/{BUCKET}/large.csv"
    name = task("slow-server", build_spec(None, dataset__uri=f"s3://{BUCKET}/large.csv", dataset__sampleSize=200))

    def is_loading() -> bool:
        training = kubectl.status(name).get("training", {})
        return training.get("bytesTotal") == len(content) and 0 < training.get("bytesRead", 0) < len(content)

    eventually("bytes of phase Loading", is_loading)
    kubectl.wait(name, "Complete")


@pytest.mark.full
def test_killed_at_a_random_step_it_ends_with_the_same_numbers(
    kubectl: Kubectl, task: Apply, store: tuple[S3Server, Bucket]
) -> None:
    _, bucket = store
    reference = task("uninterrupted", build_transformer_spec("models/uninterrupted"))
    name = task("interrupted", build_transformer_spec("models/interrupted"))
    kubectl.wait_for_step(name, random.randint(25, 150))
    (pod,) = kubectl.pods(name)
    kill_trainer(pod["metadata"]["name"])
    for each in (name, reference):
        kubectl.wait(each, "Complete")

    results, expected = read_results(kubectl, name), read_results(kubectl, reference)
    assert 0 < results["resumedFromStep"] < results["globalStep"]
    assert [attempt["number"] for attempt in kubectl.status(name)["attempts"]] == [1, 2]
    for scores in ("evaluation", "validation"):
        for measured in (results, expected):
            for key in ("runtimeSeconds", "samplesPerSecond"):
                measured[scores].pop(key, None)
        assert results[scores] == expected[scores]
    assert results["trainingLoss"] == expected["trainingLoss"]
    assert list_folder(bucket, "models/interrupted") == list_folder(bucket, "models/uninterrupted")
