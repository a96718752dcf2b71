"""The examples that use a trained model in the cluster: a server, and batch prediction over shards."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.kubectl import Kubectl, eventually, forward_port, run
from support.plugin import Cli, get_output

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
TEXTS = ["My card was charged twice", "I cannot log in since the update", "The export is slow"]
SHARDS = 4


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "examples" / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def predicted(kubectl: Kubectl, cli: Cli) -> Iterator[list[list[dict[str, Any]]]]:
    """Train the quickstart; yield the labels that `predict` gives the texts."""
    if "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        pytest.skip("needs the local cluster (make test-full): the images are built there")
    kubectl("delete", "trainingtask", "quickstart", "--ignore-not-found")
    kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    kubectl.wait("quickstart", "Complete")
    yield [text["labels"] for text in json.loads(get_output(cli("predict", "quickstart", *TEXTS, "-o", "json")))]
    kubectl("delete", "trainingtask", "quickstart", "--wait=false")


def test_the_server_gives_the_labels_of_predict(kubectl: Kubectl, predicted: list[list[dict[str, Any]]]) -> None:
    build = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py"), "images", "serve", "--json"]
    deployment, *others = load("serve.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = json.loads(run(*build, timeout=1200))["serve"]
    kubectl.apply(deployment, *others)
    try:
        kubectl("rollout", "status", "deployment/tickets-model", "--timeout=280s")
        with forward_port(kubectl.namespace, "service/tickets-model", 80) as port:
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"texts": TEXTS}, timeout=120)
        assert answer.status_code == 200, answer.text
        served = [text["labels"] for text in answer.json()["predictions"]]
        assert served == [
            [{**label, "probability": pytest.approx(label["probability"])} for label in labels] for labels in predicted
        ]
    finally:
        for item in (deployment, *others):
            kubectl("delete", item["kind"], item["metadata"]["name"], "--wait=false")


def test_a_job_labels_a_file_in_shards(
    kubectl: Kubectl, cli: Cli, predicted: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 10), encoding="utf-8")
    get_output(cli("upload", str(unlabelled), "--claim=models"))
    [job] = load("batch-predict.yaml")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["image"] = os.environ["TRAININGTASK_IMAGE_TRAINER"]
    container["resources"] = {"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    kubectl.apply(job)
    reader = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": {**pod}}
    files = " ".join(f"/models/labels-{index:05}-of-{SHARDS:05}.jsonl" for index in range(SHARDS))
    reader["spec"]["containers"] = [{**container, "command": ["/bin/sh", "-c", f"cat {files}"], "args": []}]
    try:
        kubectl("wait", "job/tickets-labels", "--for=condition=Complete", "--timeout=300s", timeout=320)
        kubectl.apply(reader)
        eventually("the files are read", lambda: kubectl.get("pod", "reader")["status"]["phase"] == "Succeeded")
        rows = [json.loads(line) for line in kubectl("logs", "reader").splitlines()]
        labels = [[label["label"] for label in row["labels"]] for row in rows]
        assert labels == [[label["label"] for label in row] for row in predicted] * 10
    finally:
        kubectl("delete", "job/tickets-labels", "pod/reader", "--ignore-not-found", "--wait=false")
