"""Objects as deep as the API server takes them, with bytes that are no UTF-8, which anyone may create: others are unaffected."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support import specs
from support.kube_api import JOBS, PODS, TASKS, Object
from support.task_namespace import TaskNamespace, get_state
from trainingtask_api import names

from .test_edited_objects import assert_others_run

LEVELS = 9980  # of the 10,000 that the API server takes; Python's json fails from 9,998 in a list
LABELS = {names.TASK_UID_LABEL: "uid-of-no-task"}
POD_SPEC = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
EVENTS = "/apis/events.k8s.io/v1"
COLLECTIONS = [(TASKS, names.PLURAL), (JOBS, "jobs"), (PODS, "pods"), (PODS, "events"), (EVENTS, "events")]


@pytest.fixture
async def neighbour(namespace: TaskNamespace) -> AsyncIterator[str]:
    """Return the name of a namespace that another user may create, deep as well."""
    name = f"{namespace.name}-neighbour"
    await create_deep(namespace, f"{PODS}/namespaces", make_object("v1", "Namespace", name))
    yield name
    for root, plural in COLLECTIONS:
        await namespace.api.request("DELETE", f"{root}/namespaces/{name}/{plural}", gracePeriodSeconds="0")
    await namespace.api.request("DELETE", f"{PODS}/namespaces/{name}")


def make_object(version: str, kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": LABELS}, **fields}


async def create_deep(namespace: TaskNamespace, path: str, manifest: Object) -> None:
    """Create an object with forged managedFields."""
    fields = {"manager": "x", "operation": "Update", "apiVersion": manifest["apiVersion"], "fieldsType": "FieldsV1"}
    manifest["metadata"]["managedFields"] = [{**fields, "fieldsV1": "DEEP"}]
    deep = b'{"f:\xff":{},' + b'"f:a":{' * LEVELS + b"}" * (LEVELS + 1)
    created = await namespace.api.request("POST", path, json.dumps(manifest).encode().replace(b'"DEEP"', deep))
    assert len(json.dumps(created["metadata"]["managedFields"])) > 1000, "the API server keeps them"


async def test_deep_objects_of_another_namespace(namespace: TaskNamespace, history: str, neighbour: str) -> None:
    """Of each watched kind, and a deep status; at the start of the operator and while it runs."""
    job_event = {"involvedObject": {"kind": "Job", "namespace": neighbour, "name": "j"}, "reason": "FailedCreate"}
    pod_event = {
        "regarding": {"kind": "Pod", "namespace": neighbour, "name": "p"},
        **{"reason": "FailedMount", "action": "Mounting", "type": "Warning", "note": "?"},
        **{"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x", "reportingInstance": "x"},
    }
    manifests = [
        specs.task("deep", specs.CLASSICAL, neighbour),
        make_object("batch/v1", "Job", "deep", spec={"suspend": True, "template": {"spec": POD_SPEC}}),
        make_object("v1", "Pod", "deep", spec=POD_SPEC),
        make_object("v1", "Event", "deep", **job_event),
        make_object("events.k8s.io/v1", "Event", "deep-pod", **pod_event),
    ]
    async with namespace.operator(history=history) as operator:
        await operator.wait_until_ready()
        for (root, plural), manifest in zip(COLLECTIONS, manifests, strict=True):
            await create_deep(namespace, f"{root}/namespaces/{neighbour}/{plural}", manifest)
        await assert_others_run(namespace, "while-it-runs")
        deep = '{"a":' * LEVELS + "1" + "}" * LEVELS
        report = json.dumps({"status": {"training": {"attempt": 1, "phase": "Training", "results": "DEEP"}}})
        finished = (await namespace.get_task("while-it-runs"))["status"]["training"]["results"]
        results = json.dumps({**finished, "arguments": {"x": "DEEP"}}).replace('"DEEP"', deep)
        path = f"{TASKS}/namespaces/{neighbour}/{names.PLURAL}/deep/status"
        body = report.replace('"DEEP"', results).encode()
        await namespace.api.request("PATCH", path, body, "application/merge-patch+json")
        await operator.restart()
        await assert_others_run(namespace, "after-its-start")
        deep_task = await namespace.api.request("GET", path)
        assert get_state(deep_task) == "Pending", "its namespace is not prepared"
        assert not operator.find_defects()
        assert not operator.unexpected_exits
