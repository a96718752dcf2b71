"""The daemons in starting order: commands, configuration files and readiness checks."""

import hashlib
import http.client
import os
import ssl
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import binaries, settings
from .config import (
    API_PORT,
    CGROUP,
    ETCD_PORT,
    ETCD_URL,
    NODE,
    NODE_IP,
    SERVICE_CIDR,
    Config,
)
from .console import ClusterError, wait_until, with_log
from .processes import find_daemon, start

READY_SECONDS = 300.0
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class Daemon:
    """A daemon of the cluster."""

    name: str
    command: tuple[str | Path, ...]
    is_ready: Callable[[], bool]
    is_built: bool = True  # from the Go modules, else from a Debian package
    files: Mapping[Path, str] = field(default_factory=dict)  # configuration written before the start
    uses_proxy: bool = False  # downloads from other machines
    patience: float = 20.0  # seconds between SIGTERM and SIGKILL

    def fingerprint(self, config: Config) -> str:
        """Return a digest of the configuration and the build."""
        build = binaries.get_build_key(config, str(self.command[0])) if self.is_built else ""
        parts = [build, *map(str, self.command), *map(str, self.files), *self.files.values()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def is_healthy(self, config: Config) -> bool:
        """Return whether it runs with the current configuration and is ready."""
        return find_daemon(config, self.name, self.fingerprint(config)) is not None and self.is_ready()

    def start(self, config: Config) -> None:
        """Write its files, start it, and wait until it is ready."""
        for path, content in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(content)
        program = config.bin / str(self.command[0]) if self.is_built else self.command[0]
        command = [program, *self.command[1:]]
        process = start(config, self.name, self.fingerprint(config), command, self._environment())
        log = config.logs / f"{self.name}.log"
        answered = wait_until(lambda: process.poll() is not None or self.is_ready(), timeout=READY_SECONDS)
        if process.poll() is not None:
            raise ClusterError(with_log(f"{self.name} ended with exit code {process.returncode}", log))
        if not answered:
            raise ClusterError(with_log(f"{self.name} was not ready within {READY_SECONDS:.0f} s", log))

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        for name in list(environment):
            if name.lower() in PROXY_VARIABLES and not self.uses_proxy:
                del environment[name]
        environment["NO_PROXY"] = f"localhost,127.0.0.1,{NODE_IP}"
        environment["PATH"] += ":/usr/sbin:/sbin"  # nft, conntrack, mount helpers, also for a plain user's PATH
        return environment


def _is_http_ok(host: str, port: int, path: str, context: ssl.SSLContext | None = None) -> bool:
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=10)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_container_runtime_ready(socket: Path) -> bool:
    """Return whether containerd answers a Version call, as the kubelet requires; its socket exists much earlier.

    A gRPC call is an HTTP/2 request; its body here is one empty message: no compression, and a length of 0.
    """
    url = "http://localhost/runtime.v1.RuntimeService/Version"
    command = ["curl", "--silent", "--max-time", "10", "--dump-header", "-", "--output", "/dev/null"]
    command += ["--http2-prior-knowledge", "--header", "content-type: application/grpc", "--header", "te: trailers"]
    command += ["--unix-socket", str(socket), "--data-binary", "@-", url]
    answer = subprocess.run(command, input=bytes(5), capture_output=True, check=False)
    return b"grpc-status: 0" in answer.stdout


def _create_tls_context(config: Config, client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
    context.load_cert_chain(config.pki / f"{client}.crt", config.pki / f"{client}.key")
    return context


# Without leader election: with one replica a Lease would only delay the restart after a crash.
_SINGLE_REPLICA = ("--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=100", "--kube-api-burst=200")


def _pair(config: Config, certificate: str, prefix: str = "") -> tuple[str, str]:
    """Return the flags of a certificate and its key."""
    key_file = "key-file" if not prefix else f"{prefix}private-key-file"
    path = config.pki / certificate
    return f"--{prefix}cert-file={path}.crt", f"--{key_file}={path}.key"


def _kubeconfig(config: Config, name: str) -> str:
    return f"--kubeconfig={config.etc / name}.kubeconfig"


def _build_etcd(config: Config) -> Daemon:
    pki = config.pki
    return Daemon(
        "etcd",
        (
            "etcd",
            f"--data-dir={config.state / 'etcd'}",
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PORT + 1}",
            *_pair(config, "etcd"),
            f"--trusted-ca-file={pki / 'ca.crt'}",
            "--client-cert-auth",
            "--unsafe-no-fsync",  # many times faster; a power cut may lose the data of this temporary cluster
            "--quota-backend-bytes=4294967296",
            "--logger=zap",
        ),
        lambda: _is_http_ok("127.0.0.1", ETCD_PORT, "/health", _create_tls_context(config, "etcd-client")),
        is_built=False,
    )


def _build_apiserver(config: Config) -> Daemon:
    pki, etc = config.pki, config.etc
    return Daemon(
        "kube-apiserver",
        (
            "kube-apiserver",
            f"--etcd-servers={ETCD_URL}",
            f"--etcd-cafile={pki / 'ca.crt'}",
            f"--etcd-certfile={pki / 'etcd-client.crt'}",
            f"--etcd-keyfile={pki / 'etcd-client.key'}",
            f"--bind-address={NODE_IP}",
            f"--advertise-address={NODE_IP}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            # Streaming lists (kwok's) would need etcd 3.5.
            "--feature-gates=WatchList=false",
            f"--client-ca-file={pki / 'ca.crt'}",
            *_pair(config, "apiserver", "tls-"),
            # By this certificate aggregated APIs, such as Kueue's of the queues, believe who asks.
            f"--proxy-client-cert-file={pki / 'apiserver-kubelet-client.crt'}",
            f"--proxy-client-key-file={pki / 'apiserver-kubelet-client.key'}",
            f"--requestheader-client-ca-file={pki / 'ca.crt'}",
            "--requestheader-allowed-names=kube-apiserver-kubelet-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",  # the node's name is in no DNS
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            "--allow-privileged=true",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
            "--profiling=false",
            f"--audit-policy-file={etc / 'audit-policy.json'}",
            f"--audit-log-path={config.logs / 'audit.log'}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=1",
        ),
        lambda: _is_http_ok(NODE_IP, API_PORT, "/readyz", _create_tls_context(config, "admin")),
        files={etc / "audit-policy.json": settings.audit_policy()},
        patience=60.0,  # drains its connections first
    )


def _build_controller_manager(config: Config) -> Daemon:
    pki = config.pki
    return Daemon(
        "kube-controller-manager",
        (
            "kube-controller-manager",
            _kubeconfig(config, "controller-manager"),
            *_SINGLE_REPLICA,
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            "--use-service-account-credentials=true",
            "--pvclaimbinder-sync-period=2s",  # 15 s by default, for which a recreated claim would wait
        ),
        lambda: _is_http_ok("127.0.0.1", 10257, "/healthz", _create_unverified_context()),
    )


def _build_scheduler(config: Config) -> Daemon:
    return Daemon(
        "kube-scheduler",
        ("kube-scheduler", _kubeconfig(config, "scheduler"), *_SINGLE_REPLICA),
        lambda: _is_http_ok("127.0.0.1", 10259, "/healthz", _create_unverified_context()),
    )


def _build_registry(config: Config) -> Daemon:
    etc = config.etc
    return Daemon(
        "registry",
        ("registry", "serve", etc / "registry.json"),
        lambda: _is_http_ok("127.0.0.1", config.registry_port, "/v2/"),
        files={etc / "registry.json": settings.registry(config)},
    )


def _build_containerd(config: Config) -> Daemon:
    etc = config.etc
    return Daemon(
        "containerd",
        ("containerd", "--config", etc / "containerd.toml"),
        lambda: _is_container_runtime_ready(config.containerd_socket),
        is_built=False,
        files={
            etc / "containerd.toml": settings.containerd(config),
            etc / "cni" / "10-trainingtask.conflist": settings.cni(config),
        },
        uses_proxy=True,
    )


def _build_kubelet(config: Config) -> Daemon:
    etc = config.etc
    return Daemon(
        "kubelet",
        (
            "kubelet",
            _kubeconfig(config, "kubelet"),
            f"--config={etc / 'kubelet.json'}",
            f"--root-dir={config.state / 'kubelet'}",
            f"--node-ip={NODE_IP}",
            f"--hostname-override={NODE}",
        ),
        lambda: _is_http_ok("127.0.0.1", 10248, "/healthz"),
        files={etc / "kubelet.json": settings.kubelet(config, f"/{CGROUP}")},
    )


def _build_proxy(config: Config) -> Daemon:
    etc = config.etc
    return Daemon(
        "kube-proxy",
        ("kube-proxy", f"--config={etc / 'kube-proxy.json'}", f"--hostname-override={NODE}"),
        lambda: _is_http_ok("127.0.0.1", 10256, "/livez"),
        files={etc / "kube-proxy.json": settings.kube_proxy(config)},
    )


def _build_coredns(config: Config) -> Daemon:
    etc = config.etc
    return Daemon(
        "coredns",
        ("coredns", "-conf", etc / "Corefile"),
        lambda: _is_http_ok("127.0.0.1", settings.COREDNS_READY_PORT, "/ready"),
        files={etc / "Corefile": settings.corefile(config)},
    )


def build_daemons(config: Config) -> list[Daemon]:
    """Return all daemons in starting order; `get_stop_order` is the order to stop them."""
    builders = (
        _build_etcd,
        _build_apiserver,
        _build_controller_manager,
        _build_scheduler,
        _build_registry,
        _build_containerd,
        _build_kubelet,
        _build_proxy,
        _build_coredns,
    )
    return [build(config) for build in builders]


def get_stop_order(config: Config) -> list[Daemon]:
    """Return clients of the API server before it, the API server before etcd, containerd after the kubelet."""
    names = "kubelet kube-proxy coredns kube-scheduler kube-controller-manager kube-apiserver etcd containerd registry"
    known = {daemon.name: daemon for daemon in build_daemons(config)}
    return [known[name] for name in names.split()]


def _create_unverified_context() -> ssl.SSLContext:
    """Return a context for health ports on loopback, whose certificates are self-signed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
