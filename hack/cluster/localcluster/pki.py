"""The cluster's certificates, its service account key and the kubeconfigs, made by the openssl command."""

import json
import shutil
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from .config import API_URL, CLUSTER_DOMAIN, KUBERNETES_SERVICE_IP, NODE, NODE_IP, Config
from .console import run

DAYS = "3650"


@dataclass(frozen=True)
class Certificate:
    """A certificate: `user` and `group` of a client, `names` of a server."""

    file: str
    user: str
    group: str = ""
    names: tuple[str, ...] = ()


CERTIFICATES = (
    Certificate(
        "apiserver",
        "kube-apiserver",
        names=(
            "DNS:localhost",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "IP:127.0.0.1",
            f"IP:{NODE_IP}",
            f"IP:{KUBERNETES_SERVICE_IP}",
        ),
    ),
    Certificate("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Certificate("etcd", "etcd", names=("IP:127.0.0.1",)),
    Certificate("etcd-client", "etcd-client"),
    Certificate("kubelet", f"system:node:{NODE}", "system:nodes", names=(f"DNS:{NODE}", f"IP:{NODE_IP}")),
    Certificate("admin", "kubernetes-admin", "system:masters"),
    Certificate("controller-manager", "system:kube-controller-manager"),
    Certificate("scheduler", "system:kube-scheduler"),
    Certificate("proxy", "system:kube-proxy"),
    Certificate("coredns", "system:coredns"),
)
CLIENTS = ("admin", "controller-manager", "scheduler", "kubelet", "proxy", "coredns")


def ensure(config: Config) -> bool:
    """Create all certificates once; return whether they are new."""
    if config.pki.exists():
        return False
    building = config.etc / "pki.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    _create_authority(building)
    for certificate in CERTIFICATES:
        _create_certificate(building, certificate)
    run(["openssl", "genrsa", "-out", building / "service-account.key", "2048"])
    run(
        ["openssl", "rsa", "-in", building / "service-account.key", "-pubout", "-out", building / "service-account.pub"]
    )
    for client in CLIENTS:
        _write_kubeconfig(building, client, config.etc / f"{client}.kubeconfig")
    _write_kubeconfig(building, "admin", config.kubeconfig)
    building.rename(config.pki)  # last, so that an interrupted run starts over
    return True


def _create_authority(directory: Path) -> None:
    # Python's ssl (3.13 and later, strict by default) refuses an authority without these key usages.
    extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options = [option for extension in extensions for option in ("-addext", extension)]
    output = ["-days", DAYS, "-subj", "/CN=trainingtask-cluster", "-keyout", str(directory / "ca.key")]
    run([*command, *options, *output, "-out", directory / "ca.crt"])


def _create_certificate(directory: Path, certificate: Certificate) -> None:
    key, request, extensions = (directory / f"{certificate.file}.{suffix}" for suffix in ("key", "csr", "ext"))
    subject = (f"/O={certificate.group}" if certificate.group else "") + f"/CN={certificate.user}"
    new_key: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
    run(["openssl", "req", *new_key, "-subj", subject, "-out", request])
    lines = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=clientAuth,serverAuth",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
    ]
    if certificate.names:
        lines.append(f"subjectAltName={','.join(certificate.names)}")
    extensions.write_text("\n".join(lines) + "\n")
    authority: list[str | Path] = [
        "-CA",
        directory / "ca.crt",
        "-CAkey",
        directory / "ca.key",
        "-CAcreateserial",
        "-days",
        DAYS,
    ]
    target: list[str | Path] = ["-extfile", extensions, "-in", request, "-out", directory / f"{certificate.file}.crt"]
    run(["openssl", "x509", "-req", *authority, *target])
    request.unlink()
    extensions.unlink()


def _write_kubeconfig(directory: Path, client: str, path: Path) -> None:
    def encoded(name: str) -> str:
        return b64encode((directory / name).read_bytes()).decode()

    user = {
        "client-certificate-data": encoded(f"{client}.crt"),
        "client-key-data": encoded(f"{client}.key"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "trainingtask",
                "cluster": {"server": API_URL, "certificate-authority-data": encoded("ca.crt")},
            }
        ],
        "users": [{"name": client, "user": user}],
        "contexts": [{"name": "trainingtask", "context": {"cluster": "trainingtask", "user": client}}],
        "current-context": "trainingtask",
    }
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(document, indent=2) + "\n")
