"""The rendered chart: security contexts, labels, annotations and placement of its pods."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import specs
from support.helm import CHART, Manifest, assert_refused, named, of_kind, render, render_anew
from trainingtask_api import Device, TrainingTask, names
from trainingtask_cli.helper_pod import PodUser
from trainingtask_operator import settings as operator_settings
from trainingtask_operator.controller.job_builder import build_job
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


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_get_labels_and_annotations(component: str) -> None:
    key = "sidecar\\.istio\\.io/inject"
    options = [f"--set-string={component}{kind}.{key}=false" for kind in ("podLabels", "podAnnotations")]
    before, after = (template_of(render(WEB, *given), component)["metadata"] for given in ([], options))
    inject = {"sidecar.istio.io/inject": "false"}
    assert after["labels"] == before["labels"] | inject
    assert after["annotations"] == before.get("annotations", {}) | inject


def test_own_annotations_replace_those_for_prometheus() -> None:
    pod = template_of(render('--set-json=podAnnotations={"prometheus.io/port":"9"}'), "")["metadata"]
    assert (pod["annotations"]["prometheus.io/port"], pod["annotations"]["prometheus.io/path"]) == ("9", "/metrics")


def test_trainers_labels_and_annotations_reach_the_operators_settings() -> None:
    metadata: dict[str, Any] = {"podLabels": {"a": "1"}, "podAnnotations": {"gke-gcsfuse/volumes": "true"}}
    trainer = {**metadata, "inheritedPrefixes": ["example.com/", "cost-"], "devices": {"gpu": metadata}}
    trainer["profiles"] = {"large": {"device": "cpu", **metadata}}
    found = settings_of(render(f"--set-json=trainer={json.dumps(trainer)}"))
    assert found.inherited_prefixes == trainer["inheritedPrefixes"]
    for part in (found, found.devices[Device.GPU], found.profiles["large"]):
        assert (part.pod_labels, part.pod_annotations) == (metadata["podLabels"], metadata["podAnnotations"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('podLabels={"a":"not valid"}', "at '/podLabels/a'"),
        ('web.podLabels={"app.kubernetes.io/name":"x"}', "invalid propertyName 'app.kubernetes.io/name'"),
        ('podAnnotations={"checksum/settings":"x"}', "invalid propertyName 'checksum/settings'"),
        (
            'trainer.profiles={"a":{"device":"cpu","podLabels":{"trainingtask.dev/task-uid":"x"}}}',
            "invalid propertyName",
        ),
        ('trainer.inheritedPrefixes=["trainingtask.dev/"]', "at '/trainer/inheritedPrefixes/0'"),
        ('trainer.inheritedPrefixes=[""]', "at '/trainer/inheritedPrefixes/0'"),
    ],
)
def test_wrong_labels_and_annotations_are_refused_by_their_path(option: str, message: str) -> None:
    assert_refused(message, f"--set-json={option}")


def test_placement_and_volumes_of_trainers_reach_the_operators_settings() -> None:
    spread = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    claim = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
    placed = {"schedulerName": "volcano", "topologySpreadConstraints": [spread], "resourceClaims": [claim]}
    trainer: dict[str, Any] = {"devices": {"gpu": {**placed, "resourceName": ""}}, "hostUsers": False}
    trainer["profiles"] = {"large": {"device": "gpu", **placed, "resourceName": ""}}
    trainer |= {"extraVolumes": [{"name": "roots", "configMap": {"name": "roots"}}]}
    trainer |= {"extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots"}]}
    found = settings_of(render(f"--set-json=trainer={json.dumps(trainer)}"))
    for device in (found.devices[Device.GPU], found.profiles["large"]):
        chosen = device.model_dump(by_alias=True)
        assert {key: chosen[key] for key in placed} == placed
        assert device.resource_name == ""
    assert (found.host_users, found.extra_volumes) == (False, trainer["extraVolumes"])
    assert found.extra_volume_mounts == trainer["extraVolumeMounts"]
    assert settings_of(render()).host_users is None


def test_no_value_replaces_the_operators_own_volumes() -> None:
    manifest = specs.task("t", specs.changed(specs.CLASSICAL, code={"configMap": "c"}, model__name="a:B"))
    manifest["metadata"]["uid"] = "u"
    full = render("--set=trainer.caBundle.secret=a", "--set=trainer.hub.cache.claim=b")
    pod = build_job(TrainingTask.model_validate(manifest), settings_of(full))["spec"]["template"]["spec"]
    mounts = pod["containers"][0]["volumeMounts"]
    assert {"task", "code", "ca-bundle", "hub-cache"} <= {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        assert_refused("at '/trainer/extraVolumes/0/name'", f"--set=trainer.extraVolumes[0].name={volume['name']}")
    for mount in mounts:
        option = f'--set-json=trainer.extraVolumeMounts=[{{"name":"x","mountPath":"{mount["mountPath"]}/"}}]'
        assert_refused("at '/trainer/extraVolumeMounts/0/mountPath'", option)


DEPLOYMENTS = [component for component, (kind, _) in COMPONENTS.items() if kind == "Deployment"]


@pytest.mark.parametrize("component", DEPLOYMENTS)
def test_pods_are_placed_and_spread_by_values(component: str) -> None:
    constraint = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    values: dict[str, Any] = {
        "topologySpreadConstraints": [constraint, constraint | {"labelSelector": {"matchLabels": {"a": "b"}}}],
        "priorityClassName": "important",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    template = template_of(
        render(WEB, *(f"--set-json={component}{key}={json.dumps(values[key])}" for key in values)), component
    )
    spread = template["spec"].pop("topologySpreadConstraints")
    assert spread == [
        constraint | {"labelSelector": {"matchLabels": template["metadata"]["labels"]}},
        constraint | {"labelSelector": {"matchLabels": {"a": "b"}}},
    ]
    del values["topologySpreadConstraints"]
    assert template["spec"].items() >= values.items()


@pytest.mark.parametrize("component", DEPLOYMENTS)
def test_containers_get_more_variables_and_volumes(component: str) -> None:
    variable = {"name": "PGSSLROOTCERT", "value": "/etc/roots/ca.crt"}
    volume = {"name": "roots", "configMap": {"name": "roots"}}
    mount = {"name": "roots", "mountPath": "/etc/roots", "readOnly": True}
    values = {"extraEnv": [variable], "extraVolumes": [volume], "extraVolumeMounts": [mount]}
    options = [f"--set-json={component}{key}={json.dumps(value)}" for key, value in values.items()]
    before, after = (template_of(render(WEB, *given), component)["spec"] for given in ([], options))
    (old,), (new,) = before["containers"], after["containers"]
    assert new["env"] == [*old["env"], variable]
    assert new["volumeMounts"] == [*old["volumeMounts"], mount]
    assert after["volumes"] == [*before["volumes"], volume]


@pytest.mark.parametrize("component", DEPLOYMENTS)
def test_a_disruption_budget_is_for_its_pods(component: str) -> None:
    assert of_kind(render(WEB), "PodDisruptionBudget") == []
    budget = f"--set={component}podDisruptionBudget"
    (found,) = of_kind(render(WEB, f"{budget}.enabled=true"), "PodDisruptionBudget")
    labels = template_of(render(WEB), component)["metadata"]["labels"]
    assert found["spec"] == {"selector": {"matchLabels": labels}, "maxUnavailable": 1}
    (found,) = of_kind(render(WEB, f"{budget}.enabled=true", f"{budget}.minAvailable=50%"), "PodDisruptionBudget")
    assert found["spec"]["minAvailable"] == "50%"
    assert "maxUnavailable" not in found["spec"]


def test_a_digest_wins_over_the_tag() -> None:
    digest = f"sha256:{'0' * 64}"
    parts = ("image", "trainer.image", "web.image", "history.evaluation.image")
    for option in ("tag", "digest"):
        manifests = render(WEB, *(f"--set={part}.{option}={digest}" for part in parts))
        images = [template_of(manifests, component)["spec"]["containers"][0]["image"] for component in COMPONENTS]
        images.append(settings_of(manifests).devices[Device.CPU].image)
        assert all(image.endswith(f"@{digest}") for image in images)


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ('extraEnv=[{"name":"TRAININGTASK_SETTINGS","value":"x"}]', "at '/extraEnv/0/name'"),
        ('web.image.digest="1.2"', "at '/web/image/digest'"),
        ('podDisruptionBudget.maxUnavailable="half"', "at '/podDisruptionBudget/maxUnavailable'"),
    ],
)
def test_a_wrong_value_of_a_pod_is_refused_by_its_path(option: str, path: str) -> None:
    assert_refused(path, f"--set-json={option}")


@pytest.mark.parametrize(
    ("options", "secret"), [((), "owner"), (("--set=history.external.readerSecret.name=reader",), "reader")]
)
def test_helm_test_reads_an_external_history_as_a_reader_where_there_is_one(
    options: tuple[str, ...], secret: str
) -> None:
    external = ("--set=history.mode=external", "--set=history.external.operatorSecret.name=owner")
    pod = named(render(*external, *options), "Pod", "tt-trainingtask-operator-test")
    variables = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
    assert variables[names.ENV_HISTORY_URL]["valueFrom"] == {"secretKeyRef": {"name": secret, "key": "url"}}
