"""Add-ons of the cluster, installed by their own Helm charts: JobSet and Kueue.

Not part of `up`: their webhooks see every Job and pod, and Kueue takes minutes to build.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import binaries, images
from .config import HERE, Config
from .console import ClusterError, run, stage
from .kubectl import kubectl

READY_SECONDS = 600


@dataclass(frozen=True)
class Addon:
    """An add-on: the values of its chart are under different names in each chart."""

    module: binaries.Module
    image_values: str
    request_value: str
    custom_resources: str  # the API group of its CustomResourceDefinitions

    @property
    def name(self) -> str:
        """Return the name of the add-on, its module and its binary."""
        return self.module.directory.name

    @property
    def namespace(self) -> str:
        """Return the namespace of its controller."""
        return f"{self.name}-system"


JOBSET = Addon(
    binaries.Module(HERE / "go" / "jobset", chart="sigs.k8s.io/jobset charts/jobset"),
    image_values="image",
    request_value="controller.resources.requests.cpu",
    custom_resources="jobset.x-k8s.io",
)
KUEUE = Addon(
    binaries.Module(HERE / "go" / "kueue", chart="sigs.k8s.io/kueue charts/kueue"),
    image_values="controllerManager.manager.image",
    request_value="controllerManager.manager.resources.requests.cpu",
    custom_resources="kueue.x-k8s.io",
)
ADDONS = {addon.name: addon for addon in (JOBSET, KUEUE)}


def build(config: Config, names: Iterable[str]) -> None:
    """Build the binaries that the cache lacks."""
    config.create_directories()
    for addon in _select(names):
        _ensure_binary(config, addon)


def install(config: Config, names: Iterable[str]) -> None:
    """Build what is missing, install the charts, and wait until the controllers and their webhooks serve."""
    for addon in _select(names):
        directory = _ensure_binary(config, addon)
        with stage(f"image {addon.name}"):
            repository, _, tag = images.build_static(config, addon.name, directory / addon.name).rpartition(":")
        image = addon.image_values
        with stage(f"install {addon.name}"):
            _helm(
                config,
                *("upgrade", "--install", addon.name, str(directory / "chart")),
                *(f"--namespace={addon.namespace}", "--create-namespace"),
                f"--set-string={image}.repository={repository},{image}.tag={tag},{image}.pullPolicy=IfNotPresent",
                f"--set-string={addon.request_value}=50m",
                *("--wait", f"--timeout={READY_SECONDS}s"),
            )


def uninstall(config: Config, names: Iterable[str]) -> None:
    """Remove the charts, their namespaces and all their custom resources."""
    # Kueue first: no namespace can be deleted while its aggregated API does not answer.
    for addon in reversed(_select(names)):
        with stage(f"uninstall {addon.name}"):
            # The resources first, while the controller is there to remove their finalizers.
            found = kubectl(config, "get", "crds", "--output=name").split()
            if definitions := [name for name in found if name.endswith(f".{addon.custom_resources}")]:
                kubectl(config, "delete", *definitions)
            _helm(config, "uninstall", addon.name, f"--namespace={addon.namespace}", "--ignore-not-found", "--wait")
            kubectl(config, "delete", "namespace", addon.namespace, "--ignore-not-found")


def _select(names: Iterable[str]) -> list[Addon]:
    names = list(names)
    if unknown := [name for name in names if name not in ADDONS]:
        raise ClusterError(f"there is no add-on {unknown[0]!r}; there are {', '.join(ADDONS)}")
    return [ADDONS[name] for name in names]


def _ensure_binary(config: Config, addon: Addon) -> Path:
    with stage(f"build {addon.name}") as line:
        directory, is_new = binaries.ensure_module(config, addon.module, line)
        line.note("built" if is_new else "cached")
    return directory


def _helm(config: Config, *arguments: str) -> None:
    run([config.bin / "helm", f"--kubeconfig={config.kubeconfig}", *arguments], timeout=READY_SECONDS + 30)
