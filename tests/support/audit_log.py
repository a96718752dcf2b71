"""The audit log of the local cluster's API server."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest


def read_audit_events(begin: datetime) -> Iterator[dict[str, Any]]:
    """Yield the requests that the API server received since a time; skip the test on another cluster."""
    log = Path(os.environ.get("KUBECONFIG", "")).parent / "logs" / "audit.log"
    if not log.exists():
        pytest.skip("needs the local cluster (make test-cluster): its API server keeps an audit log")
    for file in sorted(log.parent.glob("audit*.log")):
        with file.open() as lines:
            for line in lines:
                event = json.loads(line)
                if datetime.fromisoformat(event["requestReceivedTimestamp"]) >= begin:
                    yield event


def is_allowed(event: dict[str, Any]) -> bool:
    """Return whether the request was authorized."""
    return bool(event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow")


def get_used_right(event: dict[str, Any]) -> tuple[str, str, str]:
    """Return API group, resource with its subresource, and verb of a request for an object."""
    target = event["objectRef"]
    resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
    return target.get("apiGroup", ""), resource, event["verb"]
