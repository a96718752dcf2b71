"""JobSet and Kueue on the local cluster, installed for the tests that need them alone."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.kubectl import Kubectl, run

LAUNCHER = Path(__file__).parents[2] / "hack" / "cluster" / "cluster.py"
BUILD_SECONDS = 1800  # `make test-cluster` has built them before
QUEUE = "team-a"


@contextmanager
def install_addons(*names: str) -> Iterator[None]:
    """Install add-ons, and uninstall them after."""
    if "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        pytest.skip("needs the local cluster (make test-cluster): JobSet and Kueue are not installed into another one")
    run(sys.executable, str(LAUNCHER), "install", *names, timeout=BUILD_SECONDS)
    try:
        yield
    finally:
        run(sys.executable, str(LAUNCHER), "uninstall", *names, timeout=BUILD_SECONDS)


@contextmanager
def manage_jobs_without_queue_name(kubectl: Kubectl) -> Iterator[None]:
    """Let Kueue suspend all Jobs of a namespace, by its configuration; undo that after."""
    kueue = Kubectl("kueue-system")
    config = kueue.get("configmap", "kueue-manager-config")["data"]["controller_manager_config.yaml"]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}
    setting = f"manageJobsWithoutQueueName: true\nmanagedJobsNamespaceSelector: {json.dumps(selector)}\n"
    _configure_kueue(kueue, f"{config}\n{setting}")
    try:
        yield
    finally:
        _configure_kueue(kueue, config)


def _configure_kueue(kueue: Kubectl, config: str) -> None:
    patch = json.dumps({"data": {"controller_manager_config.yaml": config}})
    kueue("patch", "configmap", "kueue-manager-config", "--type=merge", "--patch", patch)
    kueue("rollout", "restart", "deployment/kueue-controller-manager")
    kueue("rollout", "status", "deployment/kueue-controller-manager", "--timeout=10m")


@contextmanager
def create_queue(kubectl: Kubectl, cpu: str, memory: str) -> Iterator[None]:
    """Create the queue `QUEUE` with this quota in a namespace; delete it after."""
    api_version = "kueue.x-k8s.io/v1beta2"
    flavor = {
        "name": "default",
        "resources": [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": memory}],
    }
    queue = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
        "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [flavor]}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    manifests = [
        {"apiVersion": api_version, "kind": "ResourceFlavor", "metadata": {"name": "default"}},
        {"apiVersion": api_version, "kind": "ClusterQueue", "metadata": {"name": QUEUE}, "spec": queue},
        {"apiVersion": api_version, "kind": "LocalQueue", "metadata": {"name": QUEUE}, "spec": {"clusterQueue": QUEUE}},
    ]
    kubectl.apply(*manifests)
    try:
        yield
    finally:
        for kind in ("localqueue", "clusterqueue"):
            kubectl("delete", kind, QUEUE)
        kubectl("delete", "resourceflavor", "default")
