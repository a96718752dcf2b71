"""Reports that are made as a trainer makes them, with nothing but a token."""

import base64
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from support.kubectl import Kubectl, Refused
from trainingtask_api import names

APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"


class ReportAs(Protocol):
    """Patches a task's status with a token; returns the uid of the FlowSchema that the request was in."""

    def __call__(self, token: str, task: str, status: dict[str, Any], kind: str = APPLY, **metadata: Any) -> str:
        """Raise `Refused` with the API server's sentence."""


def bound_token(kubectl: Kubectl, pod: dict[str, Any]) -> str:
    """Return a token such as the one mounted into `pod`: it names the pod it was made for."""
    return kubectl(
        "create", "token", names.TRAINER_SERVICE_ACCOUNT, "--bound-object-kind=Pod",
        f"--bound-object-name={pod['metadata']['name']}", f"--bound-object-uid={pod['metadata']['uid']}",
    ).strip()  # fmt: skip


def reporter(namespace: str, folder: Path) -> ReportAs:
    """Return the function for tasks of a namespace.

    `kubectl apply` will not do: it reads the object first, which a trainer may not.
    """
    view = subprocess.run(
        ["kubectl", "config", "view", "--raw", "--minify", "--output=json"], capture_output=True, check=True
    )
    server = json.loads(view.stdout)["clusters"][0]["cluster"]
    authority = folder / "ca.crt"
    authority.write_bytes(base64.b64decode(server["certificate-authority-data"]))
    tls = ssl.create_default_context(cafile=str(authority))

    def report(token: str, task: str, status: dict[str, Any], kind: str = APPLY, **metadata: Any) -> str:
        identity = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": task, **metadata}}
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}/{task}/status"
        force = "&force=true" if kind == APPLY else ""
        request = urllib.request.Request(
            f"{server['server']}{path}?fieldManager={names.TRAINER_FIELD_MANAGER}{force}",
            data=json.dumps({**identity, "status": status}).encode(),
            method="PATCH",
            headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=tls, timeout=120) as response:
                return str(response.headers["X-Kubernetes-PF-FlowSchema-UID"])
        except urllib.error.HTTPError as error:
            raise Refused(json.loads(error.read())["message"]) from error

    return report
