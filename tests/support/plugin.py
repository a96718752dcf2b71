"""`kubectl trainingtask`, run by kubectl."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from support.kubectl import Kubectl

# kubectl finds the plugin in the environment of these tests.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "160"}
Run = subprocess.CompletedProcess[str]
Cli = Callable[..., Run]


def create_cli(namespace: str) -> Cli:
    """Return a function that runs a command of the plugin, in this namespace unless its arguments name another place."""

    def run(
        command: str, *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None
    ) -> Run:
        line = ["kubectl", "trainingtask", command, *arguments]
        if not any(
            argument.startswith(("-n", "--namespace", "-A", "--database", "--server")) for argument in arguments
        ):
            line.append(f"--namespace={namespace}")
        return subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=ENVIRONMENT | (environment or {}),
            cwd=folder,
        )

    return run


def get_output(run: Run) -> str:
    """Return the output of a command; fail if the command did."""
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout
    return run.stdout


def write_kubeconfig(kubectl: Kubectl, token: str, folder: Path) -> Path:
    """Write a kubeconfig for the same cluster with a token; return its path."""
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--minify", "--flatten"))
    config["users"][0]["user"] = {"token": token}
    path = folder / f"kubeconfig-{len(list(folder.iterdir()))}"
    path.write_text(yaml.safe_dump(config))
    return path
