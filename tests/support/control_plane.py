"""A Kubernetes control plane for one test session, with an API server that can be killed and simulated nodes.

It runs the binaries of the local cluster (etcd, API server, controllers, scheduler, kwok) on loopback ports of its own:
no other operator reconciles its tasks, and no other test needs its API server. No container runs.
"""

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.ports import free_port

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "openssl")
READY_SECONDS = 120.0
# Only those that a task needs: less to start, and no side effects.
CONTROLLERS = (
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "serviceaccount-controller",
    "ttl-after-finished-controller",
)
ADMIN, OPERATORS = "admin", ("operator", "operator-2")
NAMESPACED = "namespaced-operator"  # has no rights but those that a test grants it
# Every write of an operator, at its response: the tests count writes in this log. Of the one without rights every request.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "users": list(OPERATORS), "verbs": ["create", "update", "patch", "delete"]},
        {"level": "Metadata", "users": [NAMESPACED]},
        {"level": "None"},
    ],
}


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass
class ControlPlane:
    """Processes in one folder, each with a log."""

    folder: Path
    etcd_port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """Return the self-signed certificate of the API server."""
        return self.folder / "certificates" / "apiserver.crt"

    def kubeconfig(self, user: str = ADMIN, server: str | None = None) -> Path:
        """Write the kubeconfig of a user; `server` is a URL in the place of the API server's."""
        path = self.folder / f"{user}-{(server or self.server).rsplit(':', 1)[-1]}.kubeconfig"
        cluster: dict[str, Any] = {"server": server or self.server}
        if server is None:
            cluster["certificate-authority-data"] = base64.b64encode(self.authority.read_bytes()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "faults", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": get_token(user)}}],
            "contexts": [{"name": "faults", "context": {"cluster": "faults", "user": user}}],
            "current-context": "faults",
        }
        path.write_text(json.dumps(document))
        return path

    def start(self, stages: Path) -> None:
        """Start all processes; wait until the API server is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        users = [f'{get_token(user)},{user},{user},"system:masters"' for user in (ADMIN, *OPERATORS)]
        users.append(f"{get_token(NAMESPACED)},{NAMESPACED},{NAMESPACED}")
        (self.folder / "tokens.csv").write_text("\n".join(users) + "\n")
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        key = str(self.folder / "service-account.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._run(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self.peer_port}",
            "--unsafe-no-fsync",
            "--logger=zap",
        )
        self.start_api_server()
        kubeconfig = str(self.kubeconfig())
        common = ("--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certificates")
        rate_limits = ("--kube-api-qps=200", "--kube-api-burst=400")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={key}",
            f"--secure-port={free_port()}",
            *common,
            *rate_limits,
        )
        self._run("kube-scheduler", f"--kubeconfig={kubeconfig}", f"--secure-port={free_port()}", *common, *rate_limits)
        self._run(
            "kwok",
            f"--config={stages}",
            f"--kubeconfig={kubeconfig}",
            "--manage-all-nodes",
            "--node-lease-duration-seconds=40",
            "--v=WARN",
        )

    def start_api_server(self) -> None:
        """Start the API server on the existing data; wait until it is ready."""
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}/certificates",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/service-account.key",
            f"--service-account-signing-key-file={self.folder}/service-account.key",
            f"--audit-policy-file={self.folder}/audit-policy.json",
            f"--audit-log-path={self.folder}/audit.log",
            "--feature-gates=WatchList=false",  # etcd 3.4 cannot stream lists
            "--profiling=false",
        )
        self._wait_for("kube-apiserver", self._is_ready)

    def kill_api_server(self) -> None:
        """SIGKILL the API server."""
        self._end("kube-apiserver", signal.SIGKILL)

    def stop(self) -> None:
        """Kill all processes; the folder stays, for its logs."""
        for name in reversed(list(self._processes)):
            self._end(name, signal.SIGKILL)

    def read_writes(self, namespace: str, user: str | None = None) -> list[dict[str, Any]]:
        """Return the answered writes of operators in a namespace from the audit log, oldest first."""
        path = self.folder / "audit.log"
        found = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # an incomplete line
            reference = event.get("objectRef", {})
            if reference.get("namespace") == namespace and user in (None, event["user"]["username"]):
                found.append(event)
        return found

    def _is_ready(self) -> bool:
        if not self.authority.exists():
            return False
        request = urllib.request.Request(
            f"{self.server}/readyz", headers={"Authorization": f"Bearer {get_token(ADMIN)}"}
        )
        try:
            tls = ssl.create_default_context(cafile=str(self.authority))
            with urllib.request.urlopen(request, context=tls, timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                log = (self.folder / f"{name}.log").read_text().splitlines()
                raise RuntimeError("\n".join([f"{name} did not start:", *log[-20:]]))
            time.sleep(0.1)

    def _run(self, program: str, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [program, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _end(self, program: str, with_signal: signal.Signals) -> None:
        process = self._processes.pop(program)
        process.send_signal(with_signal)
        process.wait()


def get_token(user: str) -> str:
    """Return a user's token; the API server listens on loopback only, and for as long as the tests run."""
    return f"token-of-{user}"


@contextmanager
def running_control_plane(folder: Path, stages: Path) -> Iterator[ControlPlane]:
    """Start a control plane, and stop it afterwards."""
    plane = ControlPlane(folder)
    try:
        plane.start(stages)
        yield plane
    finally:
        plane.stop()
