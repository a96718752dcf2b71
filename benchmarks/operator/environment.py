"""A control plane for a run: simulated nodes, namespaces, and the account of the systems under test."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.control_plane import running_control_plane
from support.kube_api import APPLY, JOBS, MERGE_PATCH, PODS, TASKS, Api

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

SHORT, LONG = "trainingtask-bench", "trainingtask-bench-long"  # in the second, pods run until they are deleted
NAME = "trainingtask-bench"
TRAINER = "trainingtask-trainer"
NODES = 20
TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
ON_FAKE_NODES = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}
SETTINGS = {
    "namespaces": [SHORT, LONG],
    "devices": {"cpu": {"image": "trainer:bench", **ON_FAKE_NODES, "resources": {"cpu": "1", "memory": "1Gi"}}},
}


@dataclass(frozen=True)
class Environment:
    """A prepared control plane.

    Attributes
    ----------
    admin
        A client that API priority and fairness never holds back.
    kubeconfig
        Of the account that the systems under test run as.
    trainer_kubeconfig
        Of the account that trainers run as.
    """

    admin: Api
    kubeconfig: Path
    trainer_kubeconfig: Path
    folder: Path


@contextlib.asynccontextmanager
async def prepare_environment(folder: Path) -> AsyncIterator[Environment]:
    """Start a control plane for this run alone, and stop it afterwards."""
    with running_control_plane(folder / "control-plane", HERE / "stages.yaml") as plane:
        async with Api(str(plane.kubeconfig())) as admin:
            await _prepare(admin)
            (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
            operator = await _write_kubeconfig(admin, SHORT, NAME, folder)
            yield Environment(admin, operator, await _write_kubeconfig(admin, LONG, TRAINER, folder), folder)


async def _prepare(admin: Api) -> None:
    crd = yaml.safe_load((REPOSITORY / "crds" / "trainingtasks.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await admin.request("POST", path, crd)
    for document in _build_objects():
        await _apply(admin, document)
    for number in range(NODES):
        # A new node has the not-ready taint, which no controller removes here.
        await admin.request("PATCH", f"{PODS}/nodes/{NAME}-{number}", {"spec": {"taints": [TAINT]}}, MERGE_PATCH)
    while True:
        found = await admin.request("GET", f"{path}/{crd['metadata']['name']}")
        nodes = (await admin.request("GET", f"{PODS}/nodes"))["items"]
        if _has_condition(found, "Established") and all(_has_condition(node, "Ready") for node in nodes):
            return
        await asyncio.sleep(0.2)


def _has_condition(item: dict[str, Any], condition: str) -> bool:
    conditions = (item.get("status") or {}).get("conditions") or []
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


async def delete_all(admin: Api, namespace: str) -> None:
    """Delete all tasks, Jobs and pods of a namespace, in the order that leaves the controllers least to do."""
    for path in (
        f"{TASKS}/namespaces/{namespace}/trainingtasks",
        f"{JOBS}/namespaces/{namespace}/jobs",
        f"{PODS}/namespaces/{namespace}/pods",
    ):
        await admin.request("DELETE", path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    for path in (f"{PODS}/namespaces/{namespace}/pods", f"{JOBS}/namespaces/{namespace}/jobs"):
        while (await admin.request("GET", path, limit="1"))["items"]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


def _build_objects() -> list[dict[str, Any]]:
    def build(api: str, kind: str, name: str, namespace: str = "", **rest: Any) -> dict[str, Any]:
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}

    def role(name: str, namespace: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        api = "rbac.authorization.k8s.io"
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        ref = {"apiGroup": api, "kind": "ClusterRole", "name": name}
        return [
            build(f"{api}/v1", "ClusterRole", name, rules=rules),
            build(f"{api}/v1", "ClusterRoleBinding", name, subjects=[account], roleRef=ref),
        ]

    reports = [{"apiGroups": ["trainingtask.dev"], "resources": ["trainingtasks/status"], "verbs": ["patch"]}]
    matched = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": NAME, "namespace": SHORT}}],
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
        ],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    # The priority level of all service accounts; the schema is ours, so that its counter counts our requests alone.
    flow = {
        "priorityLevelConfiguration": {"name": "workload-low"},
        "matchingPrecedence": 500,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [matched],
    }
    chart = _render_chart()
    nodes = [_build_node(f"{NAME}-{number}") for number in range(NODES)]
    return [
        *(build("v1", "Namespace", name) for name in (SHORT, LONG)),
        *(build("v1", "ServiceAccount", TRAINER, name) for name in (SHORT, LONG)),
        build("v1", "ServiceAccount", NAME, SHORT),
        *role(NAME, SHORT, _read_rules(chart)),
        *role(TRAINER, LONG, reports),
        build("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", NAME, spec=flow),
        *(document for document in chart if document["apiVersion"].startswith("flowcontrol")),
        *nodes,
    ]


def _render_chart() -> list[dict[str, Any]]:
    """Return the manifests of the chart."""
    chart = REPOSITORY / "charts" / "trainingtask-operator"
    command = ["helm", "template", "bench", str(chart), f"--set=trainer.namespaces={{{SHORT},{LONG}}}"]
    rendered = subprocess.run(command, check=True, capture_output=True)
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def _read_rules(chart: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rules of the operator's ClusterRole and of its Role in the namespaces of trainers."""
    roles = [("ClusterRole", "bench-trainingtask-operator"), ("Role", "trainingtask-operator")]
    found = {(document["kind"], document["metadata"]["name"]): document.get("rules") for document in chart}
    return [rule for role in roles for rule in found[role] or ()]


def _build_node(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"type": "kwok", "kubernetes.io/hostname": name}},
        "spec": {"taints": [TAINT]},
    }


_PATHS = {
    "Namespace": (PODS, "namespaces"),
    "ServiceAccount": (PODS, "serviceaccounts"),
    "Node": (PODS, "nodes"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "PriorityLevelConfiguration": ("/apis/flowcontrol.apiserver.k8s.io/v1", "prioritylevelconfigurations"),
    "FlowSchema": ("/apis/flowcontrol.apiserver.k8s.io/v1", "flowschemas"),
}


async def _apply(admin: Api, document: dict[str, Any]) -> None:
    root, plural = _PATHS[document["kind"]]
    namespace = document["metadata"].get("namespace")
    folder = f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
    await admin.request(
        "PATCH", f"{folder}/{document['metadata']['name']}", document, APPLY, fieldManager=NAME, force="true"
    )


async def _write_kubeconfig(admin: Api, namespace: str, account: str, folder: Path) -> Path:
    """Write the kubeconfig of a service account."""
    path = f"{PODS}/namespaces/{namespace}/serviceaccounts/{account}/token"
    token = await admin.request("POST", path, {"spec": {"expirationSeconds": 3600}})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": admin.cluster}],
        "users": [{"name": NAME, "user": {"token": token["status"]["token"]}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }
    kubeconfig = folder / f"{account}.kubeconfig"
    kubeconfig.write_text(json.dumps(document))
    return kubeconfig
