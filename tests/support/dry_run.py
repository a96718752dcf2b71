"""Creations of TrainingTasks that the API server only checks, over one connection: kubectl takes a process for each."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config

from trainingtask_api import names

Manifest = dict[str, Any]


class DryRun:
    """Dry runs on the API server of a client, as strict about fields as kubectl's."""

    def __init__(self, client: kubernetes.client.ApiClient) -> None:
        self._tasks = kubernetes.client.CustomObjectsApi(client)

    def get_refusal(self, task: Manifest) -> str:
        """Return the message with which the API server refuses to create a task, "" if it accepts."""
        group, _, version = names.API_VERSION.partition("/")
        where = (group, version, task["metadata"]["namespace"], names.PLURAL)
        try:
            self._tasks.create_namespaced_custom_object(*where, task, dry_run="All", field_validation="Strict")
        except kubernetes.client.ApiException as refusal:
            return str(json.loads(refusal.body)["message"])
        return ""


@contextmanager
def connect() -> Iterator[DryRun]:
    """Yield dry runs on the API server of the current kubeconfig."""
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    with kubernetes.config.new_client_from_config(kubeconfig) as client:
        yield DryRun(client)
        client.rest_client.pool_manager.clear()
