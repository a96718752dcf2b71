"""The rendered chart of an operator without rights in the cluster, and what the cluster's admin installs for it."""

import re
import shlex
from typing import Any

import pytest
import yaml

from support.helm import ROOT, Manifest, assert_refused, get_rights, named, of_kind, render
from trainingtask_operator.settings import Settings

NAME = "tt-trainingtask-operator"
TEAMS = "--set=trainer.namespaces={a,b}"
NAMESPACED = (
    "--set=rbac.namespaced=true",
    "--set=rbac.aggregateClusterRoles=false",
    "--set=crd.install=false",
    TEAMS,
)
FULL = ("--set=replicas=2", "--set=kueue.enabled=true", "--set=metrics.podMonitor.enabled=true")
GUIDE = ROOT / "docs" / "how-to" / "install-without-cluster-rights.md"


def get_identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def test_every_object_is_in_a_prepared_namespace_or_the_releases() -> None:
    manifests = render(*NAMESPACED, *FULL)
    namespaces = {get_identity(manifest): manifest["metadata"].get("namespace") for manifest in manifests}
    assert set(namespaces.values()) == {"a", "b", "ops"}
    assert not {kind for kind, _ in namespaces if kind.startswith("Cluster")}
    settings = named(manifests, "ConfigMap", f"{NAME}-settings")["data"]["settings.yaml"]
    assert Settings.model_validate(yaml.safe_load(settings)).namespaced


def test_the_roles_grant_what_the_cluster_role_does_within_namespaces() -> None:
    """All of these are used: test_rights.py, and tests/faults/test_namespaced.py of the Role."""
    everywhere = get_rights(named(render(TEAMS, *FULL), "ClusterRole", NAME))
    of_cluster = {right for right in everywhere if right[1] == "namespaces"}
    for namespace in ("a", "b"):
        usual = get_rights(named(render(TEAMS, *FULL), "Role", "trainingtask-operator", namespace))
        role = named(render(*NAMESPACED, *FULL), "Role", "trainingtask-operator", namespace)
        assert get_rights(role) == usual | (everywhere - of_cluster) | {("", "namespaces", "get")}


def test_the_guides_command_renders_what_is_left_to_the_clusters_admin() -> None:
    (command,) = re.findall(r"^helm template .*?(?= \\\n  \|)", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    shown = {words[index + 1] for index, word in enumerate(words) if word == "--show-only"}
    of_admin = {
        get_identity(m) for m in render(TEAMS, *FULL, *(f"--show-only={template}" for template in sorted(shown)))
    }
    of_cluster = {get_identity(m) for m in render(TEAMS, *FULL) if "namespace" not in m["metadata"]}
    assert of_admin == of_cluster - {("ClusterRole", NAME), ("ClusterRoleBinding", NAME)}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("crd.install=true", "no right in the whole cluster for crd.install: set"),
        ("rbac.aggregateClusterRoles=true", "for rbac.aggregateClusterRoles: set"),
        ("trainer.createNamespaces=true", "for trainer.createNamespaces: set"),
        ("web.enabled=true", "for web.enabled: set"),
        ("policy.code.configMaps=false", "policy needs a ValidatingAdmissionPolicy"),
        ("policy.queues.allowed={a}", "policy needs a ValidatingAdmissionPolicy"),
    ],
)
def test_what_takes_rights_in_the_cluster_is_refused(option: str, sentence: str) -> None:
    assert_refused(sentence, *NAMESPACED, f"--set={option}")


def test_no_value_of_policy_is_forgotten() -> None:
    """Each is refused on its own: it would narrow nothing."""
    policy: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "charts/trainingtask-operator/values.yaml").read_text())[
        "policy"
    ]
    for section, values in policy.items():
        for name, default in values.items():
            listed = "{HF_TOKEN}" if name == "allowedNames" else "{a}"
            other = listed if default == [] else str(not default).lower()
            assert_refused("policy needs a", *NAMESPACED, f"--set=policy.{section}.{name}={other}")


def test_the_cluster_wide_chart_has_its_rights() -> None:
    assert named(of_kind(render(), "ClusterRoleBinding"), "ClusterRoleBinding", NAME)
    assert ("", "pods", "list") not in get_rights(named(render(TEAMS), "Role", "trainingtask-operator", "a"))
