"""A mutating webhook that adds a container to pods, as those of service meshes do; on the local cluster alone."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.http_server import Answer, Request, serve_http, write_certificate
from support.kubectl import Kubectl
from trainingtask_api import names

WEBHOOK = "sidecars.trainingtask.test"
SIDECAR = "mesh-proxy"
NATIVE, CLASSIC = "native", "classic"


@contextmanager
def inject_sidecars(kubectl: Kubectl, image: str, tasks: dict[str, str], certificate: Path) -> Iterator[None]:
    """Add a container to the pods of these tasks: native (an init container that is restarted), or classic.

    Parameters
    ----------
    kubectl
        Creates the webhook's configuration.
    image
        An image with a shell.
    tasks
        The kind of the sidecar by the name of the task.
    certificate
        Where the webhook's certificate is written.
    """
    if "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        pytest.skip("needs the local cluster (make test-cluster): its API server can call a webhook on this machine")

    def answer(request: Request) -> Answer:
        review = json.loads(request.body)["request"]
        kind = tasks[review["object"]["metadata"]["labels"][names.TASK_NAME_LABEL]]
        patch = base64.b64encode(json.dumps([build_patch(image, kind)]).encode()).decode()
        response = {"uid": review["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        return Answer(body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    authority = base64.b64encode(write_certificate(certificate).read_bytes().split(b"-----BEGIN PRIVATE")[0]).decode()
    with serve_http(answer, certificate) as server:
        kubectl.apply(build_configuration(kubectl.namespace, server.url, authority, list(tasks)))
        try:
            yield
        finally:
            kubectl("delete", "mutatingwebhookconfiguration", WEBHOOK)


def build_patch(image: str, kind: str) -> dict[str, Any]:
    container = {
        "name": SIDECAR,
        "image": image,
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"],
        "resources": {"requests": {"cpu": "1m"}, "limits": {"memory": "32Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if kind == NATIVE:
        return {"op": "add", "path": "/spec/initContainers", "value": [{**container, "restartPolicy": "Always"}]}
    return {"op": "add", "path": "/spec/containers/0", "value": container}


def build_configuration(namespace: str, url: str, authority: str, tasks: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK},
        "webhooks": [
            {
                "name": WEBHOOK,
                "clientConfig": {"url": url, "caBundle": authority},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {
                    "matchExpressions": [{"key": names.TASK_NAME_LABEL, "operator": "In", "values": tasks}]
                },
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
