"""Changes to the machine: packages, a network link, forwarding and cgroups; and their removal."""

import os
import shutil
from functools import partial
from pathlib import Path

from .config import CGROUP, NFT_TABLE, NODE_IP, NODE_LINK, POD_CIDR, Config
from .console import ClusterError, run, wait_until

PACKAGES = (
    "buildah",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "etcd-server",
    "gcc",
    "iproute2",
    "libc6-dev",
    "mmdebstrap",
    "mount",
    "nftables",
    "openssl",
    "pgbouncer",
    "python3-venv",
    "runc",
)
KERNEL_MODULES = ("overlay", "bridge", "nf_tables", "nf_conntrack")


def install_packages(config: Config) -> list[str]:
    """Install the missing Debian packages and return their names."""
    if shutil.which("dpkg-query") is None:
        raise ClusterError("this needs Debian or a relative of it (dpkg-query was not found)")
    listing = run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"])
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    missing = [package for package in PACKAGES if package not in installed]
    if missing:
        # RUNLEVEL=1 keeps the packages from starting services of their own.
        env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        run(["apt-get", "update"], env=env, log=config.logs / "apt-update.log")
        run(
            ["apt-get", "install", "--yes", "--no-install-recommends", *missing],
            env=env,
            log=config.logs / "apt-install.log",
        )
    return missing


def prepare_network() -> None:
    """Set up the node's address, forwarding, and masquerading of the pods' traffic to other machines."""
    for module in KERNEL_MODULES:
        # A kernel may have it built in, or have no modules; a missing one fails below by name.
        if not Path("/sys/module", module).exists() and shutil.which("modprobe"):
            try:
                run(["modprobe", module])
            except ClusterError:
                continue
    if not Path("/sys/class/net", NODE_LINK).exists():
        # A bridge without ports: kernels that run containers have bridges, but not all have `dummy`.
        run(["ip", "link", "add", NODE_LINK, "type", "bridge"])
    run(["ip", "address", "replace", f"{NODE_IP}/32", "dev", NODE_LINK])
    run(["ip", "link", "set", NODE_LINK, "up"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    rules = f"""
        table ip {NFT_TABLE}
        delete table ip {NFT_TABLE}
        table ip {NFT_TABLE} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {POD_CIDR} ip daddr != {{ {POD_CIDR}, {NODE_IP} }} masquerade
            }}
        }}
    """
    run(["nft", "-f", "-"], stdin=rules)


def remove_network() -> None:
    """Undo `prepare_network`, and remove the rules left by kube-proxy."""
    tables = run(["nft", "list", "tables"]).splitlines() if shutil.which("nft") else []
    for table in (f"ip {NFT_TABLE}", "ip kube-proxy", "ip6 kube-proxy"):
        if f"table {table}" in tables:
            run(["nft", "delete", "table", *table.split()])
    if Path("/sys/class/net", NODE_LINK).exists():
        run(["ip", "link", "delete", NODE_LINK])


def find_mounts(directory: Path) -> list[Path]:
    """Return the mount points inside the directory, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # The kernel writes blanks and backslashes in paths as octal escapes.
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(directory) and point != directory:
            points.append(point)
    return sorted(points, key=lambda point: len(point.parts), reverse=True)


def unmount_all(directory: Path) -> None:
    """Unmount everything inside the directory."""
    for point in find_mounts(directory):
        run(["umount", "--lazy", point])  # lazy: despite a shell whose working directory it is


def _find_cgroup_mounts() -> list[Path]:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(point) for _, point, kind, *_ in lines if kind in ("cgroup", "cgroup2")]


def create_cgroups() -> None:
    """Create the root of all pods' cgroups, which identifies their processes."""
    for mount in _find_cgroup_mounts():
        (mount / CGROUP).mkdir(exist_ok=True)


def find_container_pids() -> set[int]:
    """Return the pids of all processes in pods of the cluster."""
    pids: set[int] = set()
    for mount in _find_cgroup_mounts():
        for directory, _, files in os.walk(mount / CGROUP):
            if "cgroup.procs" in files:
                try:
                    pids.update(int(pid) for pid in Path(directory, "cgroup.procs").read_text().split())
                except OSError:
                    continue  # removed meanwhile
    return pids


def remove_cgroups() -> None:
    """Remove the cgroups of pods whose processes have ended."""
    for mount in _find_cgroup_mounts():
        for directory, _, _ in os.walk(mount / CGROUP, topdown=False):
            # A process that has just ended keeps its group busy for a moment.
            wait_until(partial(_remove_directory, directory), timeout=5)


def _remove_directory(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_leftovers(config: Config) -> None:
    """Remove the files of a stopped cluster: sockets, pid files, namespaces, IP leases, CNI results and log links."""
    unmount_all(config.state)
    for address in config.run.glob("containerd/io.containerd.runtime.v2.task/*/*/address"):
        # The socket of a killed shim is outside of the state directory: socket paths must be short.
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)
    shutil.rmtree(config.run, ignore_errors=True)
    for result in Path("/var/lib/cni/results").glob("*"):
        if str(config.run).encode() in result.read_bytes():  # in the path of the pod's network namespace
            result.unlink()
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and Path(os.readlink(link)).is_relative_to(config.state):
            link.unlink(missing_ok=True)
