"""The rendered chart: security contexts, labels, annotations and placement of its pods."""

import json
from pathlib import Path

import pytest
import yaml

from support.helm import CHART, Manifest, named, of_kind, render, render_anew
from trainingtask_api import names
from trainingtask_cli.helper_pod import PodUser
from trainingtask_operator import settings as operator_settings
from trainingtask_operator.settings import Settings

NAME = "tt-trainingtask-operator"
WEB = "--set=web.enabled=true"
# Where each component's values are -> kind and name of its object.
COMPONENTS = {
    "": ("Deployment", NAME),
    "web.": ("Deployment", f"{NAME}-web"),
    "history.evaluation.": ("StatefulSet", f"{NAME}-postgres"),
}


def template_of(manifests: list[Manifest], component: str) -> Manifest:
    template: Manifest = named(manifests, *COMPONENTS[component])["spec"]["template"]
    return template


def settings_of(manifests: list[Manifest]) -> Settings:
    text = named(manifests, "ConfigMap", f"{NAME}-settings")["data"]["settings.yaml"]
    return Settings.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_null_leaves_the_user_to_the_platform(component: str) -> None:
    fields = ("runAsUser", "runAsGroup", *(["fsGroup"] if component else []))
    options = [f"--set={component}podSecurityContext.{field}=null" for field in fields]
    pod = template_of(render(WEB, *options), component)["spec"]
    assert not set(fields) & set(pod["securityContext"])
    assert pod["securityContext"]["runAsNonRoot"] is True

    nothing = [f"--set={component}{kind}SecurityContext=null" for kind in ("pod", "container")]
    pod = template_of(render(WEB, *nothing), component)["spec"]
    assert not any("securityContext" in part for part in (pod, *pod["containers"]))


def test_an_umbrella_charts_null_leaves_the_user_to_the_platform(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / CHART.name).symlink_to(CHART)
    dependency = {"name": CHART.name, "version": "0.1.0"}
    umbrella = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": [dependency]}
    values = {CHART.name: {"podSecurityContext": {"runAsUser": None, "runAsGroup": None}}}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(umbrella))
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(values))  # Helm drops a null of an umbrella's own values.yaml

    (deployment,) = of_kind(render_anew(f"--values={tmp_path / 'given.yaml'}", chart=tmp_path), "Deployment")
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert (context.get("runAsUser"), context.get("runAsGroup"), context["runAsNonRoot"]) == (None, None, True)


def test_trainers_get_the_contexts_by_the_operators_settings() -> None:
    default = settings_of(render())
    assert default.pod_security_context == operator_settings.POD_SECURITY_CONTEXT
    assert default.container_security_context == operator_settings.CONTAINER_SECURITY_CONTEXT

    options = [f"--set=trainer.podSecurityContext.{field}=null" for field in ("runAsUser", "runAsGroup", "fsGroup")]
    chosen = settings_of(render(*options, "--set=trainer.containerSecurityContext=null"))
    assert set(chosen.pod_security_context) == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}
    assert chosen.container_security_context == {}


@pytest.mark.parametrize("user", [1000650000, None])
def test_helper_pods_get_the_trainers_user(user: int | None) -> None:
    manifests = render(f"--set-json=trainer.podSecurityContext.runAsUser={json.dumps(user)}")
    account = named(manifests, "ServiceAccount", names.TRAINER_SERVICE_ACCOUNT)
    found = PodUser.model_validate_json(account["metadata"]["annotations"][names.TRAINER_USER_ANNOTATION])
    assert (found.run_as_user, found.fs_group) == (user, 1000)
    assert settings_of(manifests).pod_security_context.get("runAsUser") == user
