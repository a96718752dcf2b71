"""kubectl as the cluster's administrator."""

import json
from typing import Any

from .config import Config
from .console import run

COMMAND_SECONDS = 600.0


def kubectl(config: Config, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return its output."""
    command = [str(config.bin / "kubectl"), f"--kubeconfig={config.kubeconfig}", *arguments]
    return run(command, stdin=stdin, timeout=COMMAND_SECONDS)


def get_list(config: Config, *arguments: str) -> list[dict[str, Any]]:
    """`kubectl get … -o json` as a list of objects."""
    document = json.loads(kubectl(config, "get", *arguments, "--output=json"))
    items: list[dict[str, Any]] = document["items"]
    return items


def apply(config: Config, objects: list[dict[str, Any]]) -> None:
    """Run `kubectl apply` on the objects."""
    if objects:
        kubectl(
            config, "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )
