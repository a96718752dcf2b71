"""The rendered Helm chart: history modes, rights, settings and the schema of its values."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from sqlalchemy import make_url

from support.helm import CHART, ROOT, Manifest, assert_refused, bound_roles, helm, named, of_kind, render, render_anew
from trainingtask_api import TrainingTask, names
from trainingtask_history.roles import get_trainer_role
from trainingtask_operator import health
from trainingtask_operator.settings import Settings

EXTERNAL = ("--set=history.mode=external", "--set=history.external.operatorSecret.name=db")
MODES = {"evaluation": (), "external": EXTERNAL, "none": ("--set=history.mode=none",)}


def settings_of(manifests: list[Manifest]) -> Settings:
    text = named(manifests, "ConfigMap", "tt-trainingtask-operator-settings")["data"]["settings.yaml"]
    return Settings.model_validate(yaml.safe_load(text))


def operator_container(manifests: list[Manifest]) -> Manifest:
    (deployment,) = of_kind(manifests, "Deployment")
    container: Manifest = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("mode", MODES)
def test_helm_lint_has_no_findings(mode: str) -> None:
    done = helm("lint", "--strict", "--quiet", str(CHART), *MODES[mode])

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_crd_is_the_generated_one_and_survives_an_uninstall() -> None:
    generated = (ROOT / "crds" / "trainingtasks.yaml").read_text()
    assert (CHART / "files" / "trainingtasks.yaml").read_text() == generated, "stale: run `make crd`"

    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == yaml.safe_load(generated)
    assert of_kind(render("--set=crd.install=false"), "CustomResourceDefinition") == []


def test_the_rendered_settings_are_valid_for_the_operator() -> None:
    settings = settings_of(
        render(
            "--set=trainer.namespaces={a,b}",
            "--set=trainer.image.repository=reg/trainer",
            "--set-string=trainer.image.tag=7",
            "--set=trainer.devices.gpu.image=reg/cuda@sha256:1",
            "--set=trainer.devices.gpu.nodeSelector.pool=gpu",
            "--set=trainer.hub.offline=true",
            "--set=history.retentionDays=90",
        )
    )

    assert settings.namespaces == ["a", "b"]
    assert settings.hub.offline
    assert settings.history.retention_days == 90
    assert {device.value: chosen.image for device, chosen in settings.devices.items()} == {
        "cpu": "reg/trainer:7",
        "gpu": "reg/cuda@sha256:1",
    }
    gpu = {device.value: chosen for device, chosen in settings.devices.items()}["gpu"]
    assert (gpu.node_selector, gpu.resource_name, gpu.resources.memory) == ({"pool": "gpu"}, "nvidia.com/gpu", "16Gi")
    assert gpu.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_profile_inherits_image_and_resources_of_its_device_only(tmp_path: Path) -> None:
    profiles = {
        "mi300": {"device": "gpu", "resourceName": "amd.com/gpu", "nodeSelector": {"accelerator": "mi300"}},
        "large": {"device": "cpu", "resources": {"cpu": 8, "memory": "64Gi"}, "image": "reg/large:1"},
    }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"trainer": {"profiles": profiles}}))
    offered = settings_of(render(f"--values={values}", "--set=trainer.devices.gpu.image=reg/cuda:1")).profiles

    gpu, large = offered["mi300"], offered["large"]
    assert (gpu.device.value, gpu.image, gpu.resource_name) == ("gpu", "reg/cuda:1", "amd.com/gpu")
    assert (gpu.node_selector, gpu.tolerations, gpu.resources.memory) == ({"accelerator": "mi300"}, [], "16Gi")
    assert (large.device.value, large.image, large.resources.cpu, large.resources.memory) == (
        "cpu", "reg/large:1", 8, "64Gi",
    )  # fmt: skip
    assert settings_of(render()).profiles == {}


def test_names_that_yaml_reads_as_numbers_or_booleans_stay_names() -> None:
    profiles = {name: {"device": "gpu"} for name in ("4090", "on", "null")}
    manifests = render(
        "--namespace=123",
        "--set-string=trainer.namespaces={456,no}",
        "--set=trainer.createNamespaces=true",
        f"--set-json=trainer.profiles={json.dumps(profiles)}",
        "--set=web.enabled=true",
        "--set=web.ingress.enabled=true",
        "--set=web.hosts={a.example.com}",
        "--set=web.trustedProxies={fd00::}",
        *(
            f"--set-string={value}=123"
            for value in (
                "priorityClassName",
                "web.priorityClassName",
                "web.ingress.className",
                "web.ingress.tlsSecret",
                "history.evaluation.storage.storageClassName",
                "history.evaluation.existingSecret",
                "history.evaluation.tls.existingSecret",
            )
        ),
    )
    external = render(*EXTERNAL, "--set-string=history.external.operatorSecret.name=123")
    assert set(settings_of(manifests).profiles) == set(profiles)

    def find_names(part: object) -> list[object]:
        if isinstance(part, list):
            return [found for item in part for found in find_names(item)]
        if not isinstance(part, dict):
            return []
        own = [value for key, value in part.items() if re.search("(?i)(name|namespace|path|^value|/instance)$", key)]
        scalars = [value for value in own if not isinstance(value, dict | list)]
        return scalars + [found for value in part.values() for found in find_names(value)]

    found = find_names([manifests, external])
    assert {"123", "456", "no"} <= set(map(str, found))
    assert [value for value in found if not isinstance(value, str)] == []


def test_a_device_that_is_not_offered_has_no_profile() -> None:
    gpu_only = "--set=trainer.devices.cpu=null"
    assert [device.value for device in settings_of(render(gpu_only)).devices] == ["gpu"]
    assert_refused(
        "device 'cpu' is not offered by trainer.devices", gpu_only, "--set=trainer.profiles.large.device=cpu"
    )


def test_the_cluster_role_writes_only_statuses_and_events() -> None:
    objects = render("--set=trainer.namespaces={ml}", "--set=kueue.enabled=true")
    everywhere = {
        (resource, verb)
        for role in of_kind(bound_roles(objects), "ClusterRole")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    writes = {(resource, verb) for resource, verb in everywhere if verb not in ("get", "list", "watch")}
    assert writes == {("trainingtasks/status", "patch"), ("events", "create")}
    assert "pods/log" not in {resource for resource, _ in everywhere}
    [role] = [role for role in of_kind(objects, "Role") if role["metadata"]["name"] == "trainingtask-operator"]
    assert role["metadata"]["namespace"] == "ml"


def test_users_roles_are_aggregated_and_leave_the_status_read_only() -> None:
    def rights(target: str) -> set[tuple[str, str]]:
        label = f"rbac.authorization.k8s.io/aggregate-to-{target}"
        roles = [r for r in of_kind(render(), "ClusterRole") if r["metadata"]["labels"].get(label) == "true"]
        rules = [rule for role in roles for rule in role["rules"]]
        assert {group for rule in rules for group in rule["apiGroups"]} == {names.GROUP}
        return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}

    reads = {
        (resource, verb) for resource in ("trainingtasks", "trainingtasks/status") for verb in ("get", "list", "watch")
    }
    writes = {("trainingtasks", verb) for verb in ("create", "update", "patch", "delete", "deletecollection")}
    assert rights("view") == reads
    assert rights("edit") == rights("admin") == reads | writes
    without = render("--set=rbac.aggregateClusterRoles=false")
    assert of_kind(without, "ClusterRole") == of_kind(bound_roles(without), "ClusterRole")


def test_kueue_rights_are_granted_only_when_enabled() -> None:
    def groups(*options: str) -> set[str]:
        objects = render("--set=trainer.namespaces={ml}", *options)
        return {group for role in bound_roles(objects) for rule in role["rules"] for group in rule["apiGroups"]}

    assert groups("--set=kueue.enabled=true") - groups() == {names.KUEUE_GROUP}
    assert settings_of(render()).kueue.enabled is False
    assert settings_of(render("--set=kueue.enabled=true")).kueue.enabled is True


def test_only_a_change_of_settings_restarts_the_operator() -> None:
    def checksum(*options: str) -> str:
        (deployment,) = of_kind(render_anew(*options), "Deployment")
        found: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        return found

    assert checksum() == checksum()
    assert checksum() != checksum("--set=trainer.hub.offline=true")


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_rendering_twice_gives_the_same_bytes(mode: str, replicas: int) -> None:
    options = [*MODES[mode], f"--set=replicas={replicas}", "--set=history.external.readerSecret.name=db"]
    options += [f"--set=web.enabled={json.dumps(mode != 'none')}"]
    if mode == "evaluation":
        options += [
            "--set=history.evaluation.existingSecret=mine",
            "--set=history.evaluation.tls.existingSecret=my-tls",
        ]

    first, second = (helm("template", "tt", str(CHART), *options) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


@pytest.mark.parametrize("is_enabled", [True, False])
def test_an_umbrella_chart_can_switch_it_by_a_condition(tmp_path: Path, is_enabled: bool) -> None:
    shutil.copytree(CHART, tmp_path / "charts" / CHART.name)
    dependency = {"name": CHART.name, "version": "0.1.0", "condition": f"{CHART.name}.enabled"}
    umbrella = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": [dependency]}
    values = {"global": {"environment": "test"}, CHART.name: {"enabled": is_enabled, "replicas": 2}}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(umbrella))
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))

    deployments = of_kind(render_anew(chart=tmp_path), "Deployment")
    assert [deployment["spec"]["replicas"] for deployment in deployments] == ([2] if is_enabled else [])


def test_another_version_of_the_chart_restarts_no_pod(tmp_path: Path) -> None:
    later = tmp_path / "chart"
    shutil.copytree(CHART, later)
    (later / "Chart.yaml").write_text((CHART / "Chart.yaml").read_text().replace("ersion: 0.1.0", "ersion: 9.9.9"))

    def templates(chart: Path) -> list[Manifest]:
        images = [f"--set-string={part}.tag=1" for part in ("image", "trainer.image", "web.image")]
        manifests = render("--set=web.enabled=true", *images, chart=chart)
        return [m["spec"]["template"] for kind in ("Deployment", "StatefulSet") for m in of_kind(manifests, kind)]

    assert len(templates(later)) == 3
    assert templates(later) == templates(CHART)


@pytest.mark.parametrize("mode", MODES)
def test_every_pod_is_restricted(mode: str) -> None:
    manifests = render(*MODES[mode])
    pods = [m["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for m in of_kind(manifests, kind)]

    assert len(pods) == (2 if mode == "evaluation" else 1)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("mode", MODES)
def test_roles_have_no_secrets_wildcards_or_escalation(mode: str) -> None:
    manifests = render(*MODES[mode])
    rules = [rule for role in bound_roles(manifests) for rule in role["rules"]]

    assert rules
    for rule in rules:
        assert not {"*", "secrets", "configmaps", "serviceaccounts"} & set(rule["resources"])
        assert not {"*", "update", "deletecollection", "impersonate", "escalate", "bind"} & set(rule["verbs"])
        assert "*" not in rule["apiGroups"]
    [role] = [role for role in of_kind(manifests, "Role") if role["metadata"]["name"] == names.TRAINER_SERVICE_ACCOUNT]
    assert role["rules"] == [{"apiGroups": [names.GROUP], "resources": ["trainingtasks/status"], "verbs": ["patch"]}]


def test_every_trainer_namespace_is_prepared() -> None:
    manifests = render(
        "--set=trainer.namespaces={a,b}",
        "--set=trainer.devices.cpu.image=reg/cpu:1",
        "--set=trainer.imagePullSecrets[0].name=pull",
    )

    assert of_kind(manifests, "Namespace") == []
    for namespace in ("a", "b"):
        account = named(manifests, "ServiceAccount", names.TRAINER_SERVICE_ACCOUNT, namespace)
        assert account["metadata"]["annotations"][names.TRAINER_IMAGE_ANNOTATION] == "reg/cpu:1"
        assert account["imagePullSecrets"] == [{"name": "pull"}]
        binding = named(manifests, "RoleBinding", "trainingtask-trainer", namespace)
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": names.TRAINER_SERVICE_ACCOUNT, "namespace": namespace}
        ]
        secret = named(manifests, "Secret", names.HISTORY_SECRET, namespace)
        assert set(secret["stringData"]) == {names.HISTORY_SECRET_KEY, names.HISTORY_CA_KEY}


def test_created_namespaces_are_restricted_and_kept() -> None:
    (namespace,) = of_kind(render("--set=trainer.namespaces={a}", "--set=trainer.createNamespaces=true"), "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_policy_covers_the_trainers_service_account() -> None:
    manifests = render()
    name = "tt-trainingtask-operator-trainer-status"
    policy = named(manifests, "ValidatingAdmissionPolicy", name)
    binding = named(manifests, "ValidatingAdmissionPolicyBinding", name)

    assert policy["spec"]["failurePolicy"] == "Fail"
    assert f"endsWith(':{names.TRAINER_SERVICE_ACCOUNT}')" in policy["spec"]["matchConditions"][0]["expression"]
    assert all(validation["message"] for validation in policy["spec"]["validations"])
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_only_the_operators_account_may_add_a_job_to_a_task() -> None:
    name = "tt-trainingtask-operator-task-children"
    policy = named(render("--set=trainer.namespaces={a,b}"), "ValidatingAdmissionPolicy", name)["spec"]
    (selector,) = policy["matchConstraints"]["namespaceSelector"]["matchExpressions"]
    assert selector == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
    (author,) = [v["expression"] for v in policy["variables"] if v["name"] == "author"]
    assert "['system:serviceaccount:ops:tt-trainingtask-operator']" in author
    assert policy["failurePolicy"] == "Fail"


def test_only_jobsets_controllers_may_create_the_jobs_of_a_jobset() -> None:
    controller = "system:serviceaccount:a:b"
    name = "tt-trainingtask-operator-task-children"
    for accounts in ([controller], []):
        options = ("--set=trainer.namespaces={a}", f"--set-json=jobset.controllers={json.dumps(accounts)}")
        policy = named(render(*options), "ValidatingAdmissionPolicy", name)["spec"]
        (author,) = [v["expression"] for v in policy["variables"] if v["name"] == "author"]
        assert f"'jobs' && variables.ownedByJobSet ? {json.dumps(accounts)}" in author
    assert "jobsets" in {
        resource for rule in policy["matchConstraints"]["resourceRules"] for resource in rule["resources"]
    }


def test_evaluation_generates_a_password_for_each_namespace() -> None:
    long = "n" * 60
    manifests = render(f"--set=trainer.namespaces={{a,{long}}}")
    passwords = named(manifests, "Secret", "tt-trainingtask-operator-postgres")["stringData"]
    certificate = named(manifests, "Secret", "tt-trainingtask-operator-postgres-tls")["stringData"]["ca.crt"]

    assert len(set(passwords.values())) == 5
    assert all(len(password) == 32 and password.isalnum() for password in passwords.values())
    for namespace in ("a", long):
        secret = named(manifests, "Secret", names.HISTORY_SECRET, namespace)["stringData"]
        url = make_url(secret["url"])
        assert (url.username, url.password) == (get_trainer_role(namespace), passwords[f"trainer-password.{namespace}"])
        assert (url.host, url.database) == ("tt-trainingtask-operator-postgres.ops.svc", "trainingtask")
        assert url.query == {"sslmode": "verify-full", "sslrootcert": f"{names.HISTORY_CA_DIR}/{names.HISTORY_CA_KEY}"}
        assert secret[names.HISTORY_CA_KEY] == certificate


def test_existing_secrets_replace_generated_ones() -> None:
    options = ("--set=history.evaluation.existingSecret=mine", "--set=history.evaluation.tls.existingSecret=my-tls")
    manifests = render("--set=web.enabled=true", *options)

    assert of_kind(manifests, "Secret") == []
    named_secrets = set(re.findall(r"secret(?:Name|KeyRef': {'name)': '([^']+)'", str(manifests)))
    assert {"mine", "my-tls"} <= named_secrets
    assert not [name for name in named_secrets if "postgres" in name]


def test_external_and_none_install_no_database_or_secret() -> None:
    for mode in ("external", "none"):
        manifests = render(*MODES[mode])
        assert {m["kind"] for m in manifests}.isdisjoint({"StatefulSet", "Secret", "Service"})


def test_the_operator_gets_its_database_from_a_secret() -> None:
    def variables(mode: str) -> Manifest:
        return {v["name"]: v for v in operator_container(render(*MODES[mode]))["env"]}

    always = {"POD_ID", "TRAININGTASK_SETTINGS", names.ENV_LOG_FORMAT}
    assert set(variables("none")) == always
    external = variables("external")
    assert set(external) == always | {names.ENV_HISTORY_URL}
    assert external[names.ENV_HISTORY_URL]["valueFrom"] == {"secretKeyRef": {"name": "db", "key": "url"}}
    evaluation = variables("evaluation")
    assert set(evaluation) == always | {names.ENV_HISTORY_URL, names.ENV_HISTORY_PASSWORDS, "PGPASSWORD"}
    url = make_url(evaluation[names.ENV_HISTORY_URL]["value"])
    assert (url.username, url.password, url.query["sslmode"]) == ("trainingtask", None, "verify-full")
    password = {"name": "tt-trainingtask-operator-postgres", "key": "owner-password"}
    assert evaluation["PGPASSWORD"]["valueFrom"] == {"secretKeyRef": password}


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (("--set=trainer.bogus=1",), "at '/trainer': additional properties 'bogus' not allowed"),
        (("--set=history.mode=sqlite",), "at '/history/mode'"),
        (("--set=history.mode=external",), "at '/history/external/operatorSecret/name'"),
        (("--set=trainer.devices.cpu.resources.memory=lots",), "at '/trainer/devices/cpu/resources/memory'"),
        (("--set=trainer.devices.tpu.image=x",), "at '/trainer/devices'"),
        (("--set=trainer.namespaces={Bad_Name}",), "at '/trainer/namespaces/0'"),
        (("--set-json=trainer.namespaces=[]",), "at '/trainer/namespaces'"),
        (("--set=image.repository=",), "at '/image/repository'"),
        (("--set=policy.images.allowedPrefixes={bad prefix}",), "at '/policy/images/allowedPrefixes/0'"),
        (("--set=policy.env.allowedSecrets={a*b}",), "at '/policy/env/allowedSecrets/0'"),
        (("--set=policy.priorityClasses.allowed={*}",), "at '/policy/priorityClasses/allowed/0'"),
        (("--set=policy.code.configMaps=off",), "at '/policy/code/configMaps'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(options: tuple[str, ...], path: str) -> None:
    assert_refused(path, *options)


def test_every_value_is_described_and_in_the_schema() -> None:
    def check(schema: Manifest, value: object, path: str) -> None:
        assert schema.get("description"), f"{path} has no description"
        if isinstance(value, dict) and schema.get("additionalProperties") is False:
            for key, part in value.items():
                check(schema["properties"][key], part, f"{path}.{key}")

    check(
        json.loads((CHART / "values.schema.json").read_text()), yaml.safe_load((CHART / "values.yaml").read_text()), ""
    )


def test_artifact_hubs_metadata_is_that_of_the_crd_and_the_licence() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    metadata = {key.removeprefix("artifacthub.io/"): value for key, value in chart["annotations"].items()}
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    (described,) = yaml.safe_load(metadata["crds"])
    assert (described["kind"], described["name"]) == (crd["spec"]["names"]["kind"], crd["metadata"]["name"])
    assert described["version"] in [version["name"] for version in crd["spec"]["versions"]]
    (example,) = yaml.safe_load(metadata["crdsExamples"])
    assert TrainingTask.model_validate(example).spec.model.name == "logistic_regression"
    assert f'license = "{metadata["license"]}"' in (ROOT / "pyproject.toml").read_text()


def test_only_several_replicas_use_a_lease() -> None:
    alone, several = render(), render("--set=replicas=2")

    assert names.ENV_LEASE not in {variable["name"] for variable in operator_container(alone)["env"]}
    assert not [role for role in of_kind(alone, "Role") if role["metadata"]["name"].endswith("-lease")]
    variables = {variable["name"]: variable.get("value") for variable in operator_container(several)["env"]}
    assert variables[names.ENV_LEASE] == "ops/tt-trainingtask-operator"
    role = named(several, "Role", "tt-trainingtask-operator-lease", "ops")
    assert [rule["verbs"] for rule in role["rules"]] == [["create"], ["get", "update"]]
    assert role["rules"][1]["resourceNames"] == ["tt-trainingtask-operator"]
    (deployment,) = of_kind(several, "Deployment")
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"


def test_probes_and_metrics_use_the_operators_ports_and_paths() -> None:
    container = operator_container(render())

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": health.HEALTH_PORT, "metrics": health.METRICS_PORT}
    paths = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
