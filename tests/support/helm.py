"""Helm, and the rendered manifests of the chart."""

import copy
import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "trainingtask-operator"

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)


def render(*options: str, chart: Path = CHART) -> list[Manifest]:
    """Return the chart's manifests; rendered once for the same options, since helm takes half a second."""
    return copy.deepcopy(_render_once(*options, chart=chart))


def render_anew(*options: str, chart: Path = CHART) -> list[Manifest]:
    done = helm("template", "tt", str(chart), "--namespace=ops", "--kube-version=1.34.0", *options)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if manifest]


def assert_refused(message: str, *options: str) -> None:
    """Assert that the chart is refused with these options, by a sentence with `message`."""
    done = helm("template", "tt", str(CHART), *options)
    assert done.returncode != 0
    assert message in done.stderr


_render_once = functools.cache(render_anew)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def bound_roles(manifests: list[Manifest]) -> list[Manifest]:
    """Return the roles of the chart's own accounts; the others are for users."""
    bindings = of_kind(manifests, "ClusterRoleBinding") + of_kind(manifests, "RoleBinding")
    names = {(binding["roleRef"]["kind"], binding["roleRef"]["name"]) for binding in bindings}
    roles = of_kind(manifests, "ClusterRole") + of_kind(manifests, "Role")
    return [role for role in roles if (role["kind"], role["metadata"]["name"]) in names]


def named(manifests: list[Manifest], kind: str, name: str, namespace: str | None = None) -> Manifest:
    (found,) = (
        manifest
        for manifest in of_kind(manifests, kind)
        if manifest["metadata"]["name"] == name and namespace in (None, manifest["metadata"].get("namespace"))
    )
    return found


def get_rights(role: Manifest) -> set[tuple[str, str, str]]:
    """Return API group, resource and verb of each right that a Role or ClusterRole grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
