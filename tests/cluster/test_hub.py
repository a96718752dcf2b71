"""A hub on this machine: data and checkpoint of a task, and their commits in all of its attempts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from support.hub_server import Hub, serve_hub, to_parquet
from support.kubectl import Kubectl, eventually
from support.tiny_models import write_tiny_models
from support.trainer_processes import kill_trainer

ROWS = to_parquet(Dataset.from_dict({"text": ["red", "blue", "red and blue"] * 200, "labels": ["r", "b", "r,b"] * 200}))


@pytest.fixture
def hub(kubectl: Kubectl, tmp_path: Path) -> Iterator[Hub]:
    """Serve a data set and a checkpoint; a Secret of the namespace has the address."""
    with serve_hub(host=kubectl.get_node_address()) as served:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hub"},
            "stringData": {"url": served.address},
        }
        kubectl.apply(secret)
        served.add("datasets/me/colours", {"README.md": b"# Colours", "train.parquet": ROWS})
        checkpoint = write_tiny_models(tmp_path) / "bert"
        served.add("models/me/bert", {file.name: file.read_bytes() for file in checkpoint.iterdir()})
        yield served


@pytest.mark.full
def test_a_later_attempt_reads_the_commits_of_the_first(kubectl: Kubectl, task: Callable[..., str], hub: Hub) -> None:
    spec: dict[str, Any] = {
        "dataset": {"name": "table", "hub": {"id": "me/colours"}},
        "model": {"name": "bert", "checkpoint": "me/bert"},
        "training": {"epochs": 40, "batchSize": 8},
        "resources": {"cpu": "500m", "memory": "2Gi"},
        "env": [{"name": "HF_ENDPOINT", "secretKeyRef": {"name": "hub", "key": "url"}}],
    }
    name = task("hub-commits", spec)
    eventually("training", lambda: kubectl.status(name).get("training", {}).get("step"))
    repositories = hub.repositories.values()
    first = {repository.main for repository in repositories}
    assert {source["commit"] for source in kubectl.status(name)["training"]["sources"]} == first
    for repository in repositories:
        repository.commit({"README.md": b"moved"})
    (pod,) = kubectl.pods(name)
    kill_trainer(pod["metadata"]["name"])
    kubectl.wait(name, "Complete")
    status = kubectl.status(name)
    assert len(status["attempts"]) == 2
    assert {source["commit"] for source in status["training"]["results"]["sources"]} == first
    assert "warnings" not in status["training"]["results"] or not any(
        "commit" in warning for warning in status["training"]["results"]["warnings"]
    )
