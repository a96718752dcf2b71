"""The tasks of test_reasons.py, all applied at once so that they run in parallel."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.fake_nodes import fake_nodes, node
from support.kubectl import Kubectl, eventually
from support.release import OPERATOR
from support.tiny_models import write_tiny_models

Apply = Callable[[str, dict[str, Any]], None]

LOW, HIGH, REFUSED = (f"trainingtask-test-{name}" for name in ("low", "high", "unwelcome"))
GPU_TASK = specs.changed(specs.TRANSFORMER, device="gpu", resources={"gpus": 1, "cpu": "1", "memory": "1Gi"})
# No retries: an attempt that follows all the same did not count as a failure.
FAKE = specs.changed(specs.CLASSICAL, resources={"profile": "fake"}, runPolicy={"retries": 0})
# A model that allocates memory until it is killed, and reports how much.
HOG = """\
import time
from trainingtask_trainer.reporting.progress import Step

class Hog:
    preprocessor, packages = "tfidf", ()

    def __init__(self, spec, places):
        self.held = []

    def arguments(self):
        return {}

    def fit(self, rows, preprocessor, progress, checkpoints):
        for step in range(10_000):
            self.held.append(bytearray(b"x" * (4 << 20)))
            progress(Step(epoch=1, epochs=1, step=step, total_steps=10_000, rows=step, loss=None))
            time.sleep(0.05)

    predict = save = load = fit
"""


HOGS = {"cpu": "250m", "memory": "600Mi"}


def priority(name: str, value: int) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": "For tests.",
    }


def quota() -> dict[str, Any]:
    """Return a quota of no pods for one priority class only, to spare the other tests' pods."""
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": [REFUSED]}
    spec = {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [scope]}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "unwelcome"}, "spec": spec}


@pytest.fixture(scope="module")
def nodes(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("kwok") / "kwok.log"
    with fake_nodes(kubectl, node("cpu"), node("doomed"), node("gpu", gpus=1), log=log):
        yield


@pytest.fixture(scope="module")
def broken(mount_folder: Callable[[str, Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a claim with a checkpoint `bert` whose weights are NaN, and a table without texts."""
    import torch
    from transformers import BertModel

    folder = write_tiny_models(tmp_path_factory.mktemp("broken"))
    model = BertModel.from_pretrained(folder / "bert")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(folder / "bert")
    (folder / "tickets.csv").write_text("number,labels\n1,a\n", encoding="utf-8")
    return mount_folder("broken", folder)


class EmptyHub(BaseHTTPRequestHandler):
    """A hub without data sets and models."""

    def do_GET(self) -> None:
        """Answer as the hub does for a missing repository."""
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET  # noqa: N815 - names of the standard library

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def empty_hub(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """Yield the environment variable that directs a trainer to an empty hub on this machine."""
    host = kubectl.get_node_address()
    server = ThreadingHTTPServer((host, 0), EmptyHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://{host}:{server.server_port}"
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "empty-hub"}, "stringData": {"url": url}}
        )
        yield {"name": "HF_ENDPOINT", "secretKeyRef": {"name": "empty-hub", "key": "url"}}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def build_specs(claim: str, broken: str, hub: dict[str, Any], no_trainer: str) -> dict[str, dict[str, Any]]:
    """Return the spec of each task by its name.

    Parameters
    ----------
    claim, broken
        An empty claim, and that of `broken`.
    hub
        The environment variable of an empty hub.
    no_trainer
        An image without a trainer.
    """

    def trainer(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return specs.changed(spec, resources={"cpu": "250m", "memory": "1Gi"}, runPolicy__retries=0, **changes)

    def waiting(**changes: Any) -> dict[str, Any]:
        return specs.changed(specs.CLASSICAL, resources={"cpu": "10m", "memory": "64Mi"}, **changes)

    token = {"name": "HF_TOKEN", "secretKeyRef": {"name": "nope", "key": "token"}}
    return {
        "no-volume": trainer(specs.TABLE, dataset__volumeClaim="nowhere"),
        "no-code": waiting(code={"configMap": "no-such-code"}),
        "no-image": waiting(image="localhost:1/no/such:image"),
        "no-secret": waiting(env=[token]),
        "no-memory": waiting(resources__memory="900Ti"),
        "over-quota": specs.changed(specs.CLASSICAL, runPolicy={"priorityClassName": REFUSED}),
        "no-priority": specs.changed(specs.CLASSICAL, runPolicy={"priorityClassName": "no-such-class"}),
        "queued": specs.changed(FAKE, runPolicy={"queueName": "team-a"}),
        "taken": specs.changed(FAKE, runPolicy={"queueName": "team-a", "suspend": True}),
        "no-profile": specs.changed(specs.CLASSICAL, resources={"profile": "no-such-profile"}),
        "evicted": FAKE,
        "node-lost": specs.changed(FAKE, resources__profile="doomed"),
        "hangs": FAKE,
        "preempted": specs.changed(GPU_TASK, runPolicy={"priorityClassName": LOW, "retries": 0}),
        "invalid-data": trainer(specs.TABLE, dataset__volumeClaim=broken, dataset__path="tickets.csv"),
        "no-model": trainer(specs.CLASSICAL, model={"name": "bert", "volumeClaim": claim, "checkpoint": "not/here"}),
        "no-number": trainer(specs.CLASSICAL, model={"name": "bert", "volumeClaim": broken, "checkpoint": "bert"}),
        "no-dataset": trainer(
            specs.CLASSICAL, dataset={"name": "go_emotions", "hub": {"id": "nobody/nothing"}}, env=[hub]
        ),
        "crashed": trainer(specs.CLASSICAL, image=no_trainer),
        "hog": trainer(specs.CLASSICAL, model__name="hog:Hog", code={"configMap": "hog"}) | {"resources": HOGS},
    }


@pytest.fixture(scope="module")
def apply_task(
    kubectl: Kubectl, system: Kubectl, empty_claim: str, broken: str, empty_hub: dict[str, Any], nodes: None
) -> Iterator[Apply]:
    """Apply all tasks at once; yield a function that applies another."""
    hog = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hog"}, "data": {"hog.py": HOG}}
    kubectl.apply(priority(LOW, -1000), priority(HIGH, 1000), priority(REFUSED, -10), quota(), hog)
    applied: list[str] = []

    def apply(name: str, spec: dict[str, Any]) -> None:
        applied.append(name)
        kubectl.apply(specs.task(name, spec, kubectl.namespace))

    operator = json.loads(system("get", OPERATOR, "--output=json"))
    no_trainer = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    try:
        for name, spec in build_specs(empty_claim, broken, empty_hub, no_trainer).items():
            apply(name, spec)
        eventually("Running", lambda: kubectl.status("node-lost").get("state") == "Running")
        kubectl("delete", "node", "fake-doomed")  # now: it is detected last
        yield apply
    finally:
        kubectl("delete", "trainingtask", *applied, "--ignore-not-found", "--wait=false")
        kubectl("delete", "resourcequota", "unwelcome", "--ignore-not-found")
        kubectl("delete", "priorityclass", LOW, HIGH, REFUSED, "--ignore-not-found")
