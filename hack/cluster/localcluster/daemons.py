"""The daemons: how each is started, configured, and asked whether it is ready. In starting order."""

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
from .processes import daemon_pid, start

READY_SECONDS = 90.0
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class Daemon:
    """One program of the cluster."""

    name: str
    command: tuple[str | Path, ...]
    ready: Callable[[], bool]
    built: bool = True  # from our Go modules, else a Debian package's
    files: Mapping[Path, str] = field(default_factory=dict)  # configuration written before the start
    uses_proxy: bool = False  # fetches from outside the machine
    patience: float = 20.0  # seconds between SIGTERM and SIGKILL

    def fingerprint(self, config: Config) -> str:
        """Tell this configuration and build from any other."""
        build = binaries.digest(config, str(self.command[0])) if self.built else ""
        parts = [build, *map(str, self.command), *map(str, self.files), *self.files.values()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def healthy(self, config: Config) -> bool:
        """Running as configured now, and answering."""
        return daemon_pid(config, self.name, self.fingerprint(config)) is not None and self.ready()

    def start(self, config: Config) -> None:
        """Write its files, start it, and wait until it answers."""
        for path, content in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(content)
        program = config.bin / str(self.command[0]) if self.built else self.command[0]
        command = [program, *self.command[1:]]
        process = start(config, self.name, self.fingerprint(config), command, self._environment())
        log = config.logs / f"{self.name}.log"
        answered = wait_until(lambda: process.poll() is not None or self.ready(), timeout=READY_SECONDS)
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


def _http_ok(host: str, port: int, path: str, context: ssl.SSLContext | None = None) -> bool:
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=2)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=2, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _container_runtime_answers(socket: Path) -> bool:
    """Ask as the kubelet does, which ends when it is told "not initialized yet": the socket is there long before that.

    A gRPC call is an HTTP/2 request; its body here is one empty message: no compression, and a length of 0.
    """
    url = "http://localhost/runtime.v1.RuntimeService/Version"
    command = ["curl", "--silent", "--max-time", "2", "--dump-header", "-", "--output", "/dev/null"]
    command += ["--http2-prior-knowledge", "--header", "content-type: application/grpc", "--header", "te: trailers"]
    command += ["--unix-socket", str(socket), "--data-binary", "@-", url]
    answer = subprocess.run(command, input=bytes(5), capture_output=True, check=False)
    return b"grpc-status: 0" in answer.stdout


def _tls(config: Config, client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
    context.load_cert_chain(config.pki / f"{client}.crt", config.pki / f"{client}.key")
    return context


def daemons(config: Config) -> list[Daemon]:
    """Every daemon of the cluster. Stop them in `stop_order`."""
    pki, etc = config.pki, config.etc

    def pair(certificate: str, prefix: str = "") -> tuple[str, str]:
        key_file = "key-file" if not prefix else f"{prefix}private-key-file"
        return f"--{prefix}cert-file={pki / certificate}.crt", f"--{key_file}={pki / certificate}.key"

    def component(name: str) -> str:
        return f"--kubeconfig={etc / name}.kubeconfig"

    etcd = Daemon(
        "etcd",
        (
            "etcd",
            f"--data-dir={config.state / 'etcd'}",
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PORT + 1}",
            *pair("etcd"),
            f"--trusted-ca-file={pki / 'ca.crt'}",
            "--client-cert-auth",
            "--unsafe-no-fsync",  # many times faster; a power cut may cost the data of this throwaway cluster
            "--quota-backend-bytes=4294967296",
            "--logger=zap",
        ),
        lambda: _http_ok("127.0.0.1", ETCD_PORT, "/health", _tls(config, "etcd-client")),
        built=False,
    )
    apiserver = Daemon(
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
            # A watch from the beginning (kwok's) would need etcd 3.5; without it the API server lists as it used to.
            "--feature-gates=WatchList=false",
            f"--client-ca-file={pki / 'ca.crt'}",
            *pair("apiserver", "tls-"),
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
        lambda: _http_ok(NODE_IP, API_PORT, "/readyz", _tls(config, "admin")),
        files={etc / "audit-policy.json": settings.audit_policy()},
        patience=60.0,  # it drains its connections first
    )
    # Leases would only make a restart after a crash wait for their end: there is one of each.
    alone = ("--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=100", "--kube-api-burst=200")
    controller_manager = Daemon(
        "kube-controller-manager",
        (
            "kube-controller-manager",
            component("controller-manager"),
            *alone,
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            "--use-service-account-credentials=true",
            "--pvclaimbinder-sync-period=2s",  # 15 s by default, which a claim made again after its end would wait
        ),
        lambda: _http_ok("127.0.0.1", 10257, "/healthz", _unverified()),
    )
    scheduler = Daemon(
        "kube-scheduler",
        ("kube-scheduler", component("scheduler"), *alone),
        lambda: _http_ok("127.0.0.1", 10259, "/healthz", _unverified()),
    )
    registry = Daemon(
        "registry",
        ("registry", "serve", etc / "registry.json"),
        lambda: _http_ok("127.0.0.1", config.registry_port, "/v2/"),
        files={etc / "registry.json": settings.registry(config)},
    )
    containerd = Daemon(
        "containerd",
        ("containerd", "--config", etc / "containerd.toml"),
        lambda: _container_runtime_answers(config.containerd_socket),
        built=False,
        files={
            etc / "containerd.toml": settings.containerd(config),
            etc / "cni" / "10-trainingtask.conflist": settings.cni(config),
        },
        uses_proxy=True,
    )
    kubelet = Daemon(
        "kubelet",
        (
            "kubelet",
            component("kubelet"),
            f"--config={etc / 'kubelet.json'}",
            f"--root-dir={config.state / 'kubelet'}",
            f"--node-ip={NODE_IP}",
            f"--hostname-override={NODE}",
        ),
        lambda: _http_ok("127.0.0.1", 10248, "/healthz"),
        files={etc / "kubelet.json": settings.kubelet(config, f"/{CGROUP}")},
    )
    proxy = Daemon(
        "kube-proxy",
        ("kube-proxy", f"--config={etc / 'kube-proxy.json'}", f"--hostname-override={NODE}"),
        lambda: _http_ok("127.0.0.1", 10256, "/livez"),
        files={etc / "kube-proxy.json": settings.kube_proxy(config)},
    )
    coredns = Daemon(
        "coredns",
        ("coredns", "-conf", etc / "Corefile"),
        lambda: _http_ok("127.0.0.1", settings.COREDNS_READY_PORT, "/ready"),
        files={etc / "Corefile": settings.corefile(config)},
    )
    return [etcd, apiserver, controller_manager, scheduler, registry, containerd, kubelet, proxy, coredns]


def stop_order(config: Config) -> list[Daemon]:
    """Those that write to the API server before it, the API server before etcd, containers' keeper after kubelet."""
    names = "kubelet kube-proxy coredns kube-scheduler kube-controller-manager kube-apiserver etcd containerd registry"
    known = {daemon.name: daemon for daemon in daemons(config)}
    return [known[name] for name in names.split()]


def _unverified() -> ssl.SSLContext:
    """Health ports on loopback with certificates their daemons made up themselves."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
