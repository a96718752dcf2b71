"""Fake nodes, whose kubelet is simulated by kwok: for tests with GPUs and with lost nodes."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.kubectl import Kubectl, eventually

STAGES = Path(__file__).with_name("fake_nodes.yaml")
LABEL = "trainingtask.dev/fake"  # its value is the kind of node
GPU = "nvidia.com/gpu"
ZONE = "trainingtask.dev/no-such-zone"

# Device profiles on the fake nodes, whose taints repel ordinary pods.
PROFILES = {
    "fake": {
        "device": "cpu",
        "nodeSelector": {LABEL: "cpu"},
        "tolerations": [{"key": LABEL, "operator": "Exists", "effect": "NoSchedule"}],
    },
    "doomed": {
        "device": "cpu",
        "nodeSelector": {LABEL: "doomed"},
        "tolerations": [{"key": LABEL, "operator": "Exists", "effect": "NoSchedule"}],
    },
    # For no node: none has that label, no scheduler that name, and no driver offers devices.
    "zoned": {
        "device": "cpu",
        "topologySpreadConstraints": [{"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
    },
    "claimed": {
        "device": "gpu",
        "schedulerName": "no-such-scheduler",
        "resourceName": "",
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    },
}


def node(kind: str, gpus: int = 0) -> dict[str, Any]:
    """Return a large node, whose taint only trainers of that kind tolerate."""
    capacity = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "100"} | (
        {GPU: str(gpus)} if gpus else {}
    )
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"fake-{kind}", "labels": {LABEL: kind}},
        "spec": {"taints": [{"key": GPU if gpus else LABEL, "value": "present", "effect": "NoSchedule"}]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


@contextmanager
def fake_nodes(kubectl: Kubectl, *nodes: dict[str, Any], log: Path) -> Iterator[None]:
    """Create these nodes, and delete them at the end."""
    names = [item["metadata"]["name"] for item in nodes]
    with log.open("wb") as output:
        kwok = subprocess.Popen(
            ["kwok", f"--config={STAGES}", f"--manage-nodes-with-label-selector={LABEL}", "--v=WARN"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            kubectl.apply(*nodes)
            eventually("fake nodes", lambda: all(_is_ready(kubectl.get("node", name)) for name in names))
            yield
        finally:
            # Nodes first: pods bound to them end then, and the rest are force-deleted.
            kubectl("delete", "node", *names, "--ignore-not-found")
            pods = [p for p in kubectl.find("pods") if p["spec"].get("nodeName") in names]
            if pods:
                kubectl("delete", "pod", *(p["metadata"]["name"] for p in pods), "--force", "--ignore-not-found")
            kwok.terminate()
            kwok.wait(timeout=120)


def _is_ready(found: dict[str, Any]) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
