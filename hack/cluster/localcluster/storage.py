"""Volumes: a pool of directories as `local` PersistentVolumes, and read-only claims on directories of the machine."""

import shutil
from pathlib import Path
from typing import Any

from .config import NODE, Config
from .console import ClusterError
from .kubectl import apply, get_list, kubectl

POOL_SIZE = 20
CAPACITY = "10Gi"  # nominal: a directory has no quota
POOL_LABEL = "trainingtask.dev/volume-pool"


def replenish(config: Config) -> int:
    """Create the missing volumes and renew the released ones; return the number of new ones."""
    known = {item["metadata"]["name"]: item for item in get_list(config, "persistentvolumes", "-l", POOL_LABEL)}
    released = [name for name, item in known.items() if item["status"].get("phase") in ("Released", "Failed")]
    if released:
        kubectl(config, "delete", "persistentvolume", *released)
    wanted = [f"local-{number:02}" for number in range(1, POOL_SIZE + 1)]
    new = [name for name in wanted if name not in known or name in released]
    for name in new:
        shutil.rmtree(config.volumes / name, ignore_errors=True)
        (config.volumes / name).mkdir(parents=True)
    apply(config, [_local_volume(config, name) for name in new])
    return len(new)


def _local_volume(config: Config, name: str) -> dict[str, Any]:
    on_this_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {POOL_LABEL: "local"}},
        "spec": {
            "storageClassName": "local",
            "capacity": {"storage": CAPACITY},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(config.volumes / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_this_node]}]}},
        },
    }


def claim(config: Config, namespace: str, name: str, directory: Path) -> None:
    """Offer a directory as the claim NAMESPACE/NAME. hostPath, so that no fsGroup changes the owner of its files."""
    directory = directory.resolve()
    if not directory.is_dir():
        raise ClusterError(f"{directory} is not a directory")
    volume = f"{namespace}-{name}"
    existing = get_list(config, "persistentvolumes", f"--field-selector=metadata.name={volume}")
    if existing and (
        existing[0]["spec"].get("hostPath", {}).get("path") != str(directory)
        or existing[0]["status"].get("phase") == "Released"
    ):
        kubectl(config, "delete", "--ignore-not-found", "--namespace", namespace, "persistentvolumeclaim", name)
        kubectl(config, "delete", "persistentvolume", volume)
    shape = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    apply(
        config,
        [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": {
                    **shape,
                    "capacity": {"storage": CAPACITY},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": str(directory), "type": "Directory"},
                    "claimRef": {"namespace": namespace, "name": name},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {**shape, "volumeName": volume, "resources": {"requests": {"storage": CAPACITY}}},
            },
        ],
    )
    kubectl(
        config,
        "wait",
        "--namespace",
        namespace,
        "--for=jsonpath={.status.phase}=Bound",
        "--timeout=300s",
        f"persistentvolumeclaim/{name}",
    )
