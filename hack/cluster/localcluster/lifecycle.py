"""`up`, `down` and `status`: the stages and their order."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from . import binaries, host, images, pki, processes, storage
from .config import API_URL, HERE, NODE, Config
from .console import ClusterError, stage, wait_until, with_log
from .daemons import Daemon, build_daemons, get_stop_order
from .kubectl import get_list, kubectl

NODE_READY_SECONDS = 300.0
CONTAINER_PATIENCE_SECONDS = 10.0


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the cluster's lock: one command changes it at a time."""
    config.state.mkdir(parents=True, exist_ok=True, mode=0o711)
    with (config.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(config: Config) -> None:
    """Start the cluster, or reuse a healthy one."""
    with locked(config):
        config.create_directories()
        with stage("packages") as line:
            line.note(f"{len(host.install_packages(config))} installed")
        with stage("Go binaries") as line:
            line.note(f"built {', '.join(built)}" if (built := binaries.ensure(config, line)) else "cached")
        with stage("certificates") as line:
            line.note("new" if pki.ensure(config) else "reused")
        cluster = build_daemons(config)
        if all(daemon.is_healthy(config) for daemon in cluster):
            with stage("daemons") as line:
                line.note("all healthy, reused")
        else:
            with stage("clearing what is left"):
                _stop(config)
                config.create_directories()
            with stage("network and cgroups"):
                host.prepare_network()
                host.create_cgroups()
            for daemon in cluster:
                if daemon.name == "kubelet":
                    with stage("pause image"):
                        images.ensure_pause(config)
                with stage(daemon.name):
                    daemon.start(config)
                if daemon.name == "kube-apiserver":
                    with stage("roles and storage class"):
                        kubectl(config, "apply", "--filename", str(HERE / "manifests"))
                        _mark_stale(config)
        with stage("storage") as line:
            line.note(f"{storage.replenish(config)} new volumes")
        with stage("node Ready"):
            if not wait_until(lambda: _is_node_ready(config), timeout=NODE_READY_SECONDS):
                raise ClusterError(with_log("the node did not become Ready", config.logs / "kubelet.log"))
    print(f"The cluster is up at {API_URL}. Next: export KUBECONFIG={config.kubeconfig} PATH={config.bin}:$PATH")


def down(config: Config, *, purge: bool) -> None:
    """Stop the cluster and undo what it did to the machine."""
    if not config.state.exists():
        print("There is no cluster.")
        return
    with locked(config):
        with stage("stopping"):
            _stop(config)
        with stage("network and cgroups"):
            host.remove_network()
            host.remove_cgroups()
        if purge:
            with stage("deleting data"):
                host.unmount_all(config.state)
                shutil.rmtree(config.state)


def status(config: Config) -> bool:
    """Print one line per daemon and the node's state; return whether all are healthy."""
    if not config.pki.exists():
        print("There is no cluster.")
        return False
    is_healthy = True
    for daemon in build_daemons(config):
        pid = processes.find_daemon(config, daemon.name)
        state = "stopped" if pid is None else "healthy" if daemon.is_healthy(config) else "running, not as it should"
        is_healthy = is_healthy and state == "healthy"
        print(f"  {daemon.name:<26} {state:<10} {pid or '':>8}  {config.logs / daemon.name}.log")
    ready = is_healthy and _is_node_ready(config)
    print(f"  {'node':<26} {'Ready' if ready else 'not Ready'}")
    return ready


def _is_node_ready(config: Config) -> bool:
    template = '{.status.conditions[?(@.type=="Ready")].status}'
    return kubectl(config, "get", "node", NODE, "--ignore-not-found", f"--output=jsonpath={template}") == "True"


def _mark_stale(config: Config) -> None:
    """Set node and pods of the last run to not ready, until the new kubelet reports on them."""
    for kind in ("nodes", "pods"):
        for item in get_list(config, kind, "--all-namespaces"):
            conditions = [
                {"type": condition["type"], "status": "False", "reason": "ClusterRestarted"}
                for condition in item["status"].get("conditions", [])
                if condition["type"] in ("Ready", "ContainersReady") and condition["status"] == "True"
            ]
            if conditions:
                metadata = item["metadata"]
                kubectl(
                    config,
                    "patch",
                    kind,
                    metadata["name"],
                    f"--namespace={metadata.get('namespace', '')}",
                    "--subresource=status",
                    f"--patch={json.dumps({'status': {'conditions': conditions}})}",
                )


def _stop(config: Config) -> None:
    """Stop all processes of the cluster in order, then remove their leftovers."""
    with images.locked(config):  # a build in progress may end first: it mounts, and pushes to the registry
        _stop_daemons(config)
        host.remove_leftovers(config)


def _stop_daemons(config: Config) -> None:
    for daemon in get_stop_order(config):
        if daemon.name == "containerd":
            # Containers first, by SIGTERM: a database then ends with a checkpoint and needs no recovery.
            processes.stop(host.find_container_pids(), patience=CONTAINER_PATIENCE_SECONDS)
        _stop_daemon(config, daemon)
    processes.stop(processes.find_processes(config), patience=0)
    processes.stop(host.find_container_pids(), patience=0)


def _stop_daemon(config: Config, daemon: Daemon) -> None:
    pid = processes.find_daemon(config, daemon.name)
    if pid is not None:
        processes.stop({pid}, patience=daemon.patience)
