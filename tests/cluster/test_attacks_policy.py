"""Attacks that the chart's defaults refuse: system priority classes, and metadata that would fill the operator's memory."""

import json

import pytest

from support import specs
from support.kubectl import Kubectl, Manifest, Refused


def create(kubectl: Kubectl, task: Manifest) -> str:
    return kubectl("create", "-f", "-", stdin=json.dumps(task))


@pytest.mark.parametrize("name", ["system-node-critical", "system-cluster-critical"])
def test_system_priority_classes_are_refused(kubectl: Kubectl, name: str) -> None:
    task = specs.task("urgent", specs.changed(specs.CLASSICAL, runPolicy__priorityClassName=name), kubectl.namespace)
    with pytest.raises(Refused, match=f"spec.runPolicy.priorityClassName '{name}' is refused"):
        create(kubectl, task)


def test_large_labels_do_not_reach_the_operator(kubectl: Kubectl) -> None:
    task = specs.task("large", specs.changed(specs.CLASSICAL, runPolicy__suspend=True), kubectl.namespace)
    task["metadata"]["labels"] = {f"{n:0>253}/k": "v" * 63 for n in range(3000)}  # 1 MB
    with pytest.raises(Refused, match=r"metadata\.labels has 3000 labels: at most 64 are allowed"):
        create(kubectl, task)
