"""Paths and addresses of the cluster, without side effects."""

import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent

NODE = "trainingtask"
# One private address for node, API server and DNS, on a separate link: certificates stay valid when the machine's
# address changes, and other machines cannot reach it.
NODE_LINK = "trainingtask0"
NODE_IP = "10.111.0.1"
POD_CIDR = "10.112.0.0/20"
SERVICE_CIDR = "10.113.0.0/16"
KUBERNETES_SERVICE_IP = "10.113.0.1"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443
API_URL = f"https://{NODE_IP}:{API_PORT}"
ETCD_PORT = 12379  # Debian's etcd package may start a server of its own on 2379.
ETCD_URL = f"https://127.0.0.1:{ETCD_PORT}"
CGROUP = "trainingtask-cluster"
NFT_TABLE = "trainingtask-cluster"
CNI_NETWORK = "trainingtask"
PROJECT = "trainingtask"


@dataclass(frozen=True)
class Config:
    """Paths derived from two directories: `state` of one cluster, and `cache` of built binaries and downloads."""

    state: Path
    cache: Path
    registry_port: int

    @classmethod
    def from_environment(cls) -> "Config":
        """Return the defaults, overridden by the environment."""
        user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(
            state=Path(os.environ.get("TRAININGTASK_CLUSTER_STATE") or "/var/lib/trainingtask-cluster").resolve(),
            cache=Path(os.environ.get("TRAININGTASK_CACHE") or user_cache / "trainingtask").resolve(),
            registry_port=int(os.environ.get("TRAININGTASK_REGISTRY_PORT") or "5000"),
        )

    @property
    def bin(self) -> Path:
        """Directory for PATH, with links to the built binaries."""
        return self.state / "bin"

    @property
    def logs(self) -> Path:
        """Logs of daemons and builds."""
        return self.state / "logs"

    @property
    def run(self) -> Path:
        """Files of running processes: sockets, pid files, IP leases, network namespaces."""
        return self.state / "run"

    @property
    def etc(self) -> Path:
        """Generated configuration files, certificates and kubeconfigs."""
        return self.state / "etc"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.etc / "pki"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self.state / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        """Socket of containerd."""
        return self.run / "containerd.sock"

    @property
    def leases(self) -> Path:
        """IP leases of pods, written by the host-local plugin."""
        return self.run / "leases"

    @property
    def volumes(self) -> Path:
        """Directories behind the PersistentVolumes."""
        return self.state / "volumes"

    @property
    def registry(self) -> str:
        """Name of the registry in image references; containerd and buildah use plain HTTP for `localhost`."""
        return f"localhost:{self.registry_port}"

    def image(self, name: str, tag: str) -> str:
        """Return the reference of an image of this project in the local registry."""
        return f"{self.registry}/{PROJECT}/{name}:{tag}"

    def create_directories(self) -> None:
        """Create the directories that every command needs."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        for directory in (self.bin, self.logs, self.run, self.etc, self.leases, self.volumes):
            directory.mkdir(parents=True, exist_ok=True)
        self.etc.chmod(0o700)
