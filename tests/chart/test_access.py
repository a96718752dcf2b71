"""The rendered chart: how trainers reach stores, hubs and proxies, and what the operator may do beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import assert_refused, named, render
from trainingtask_api import names
from trainingtask_operator.settings import Settings

ROLE, CLIENT = "eks.amazonaws.com/role-arn", "azure.workload.identity/client-id"
ACCESS: dict[str, Any] = {
    "env": [{"name": "AWS_ENDPOINT_URL", "value": "https://s3.example.com"}],
    "envFrom": [{"secretRef": {"name": "store"}}],
    "podLabels": {"azure.workload.identity/use": "true"},
    "hub": {
        "endpoint": "https://hub.example.com",
        "tokenSecret": {"name": "hub", "key": "hf"},
        "cache": {"claim": "downloads"},
    },
    "proxy": {"https": "http://proxy.example.com:3128", "noProxy": [".example.com"]},
    "tracking": {"mlflow": {"uri": "https://mlflow.example.com", "experiment": "All", "secret": "mlflow"}},
    "caBundle": {"configMap": "roots"},
    "allowPrivateRedirects": True,
}


def test_access_values_reach_the_operators_settings(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"trainer": ACCESS}))
    text = named(render(f"--values={values}"), "ConfigMap", "tt-trainingtask-operator-settings")["data"]
    settings = Settings.model_validate(yaml.safe_load(text["settings.yaml"]))
    found = settings.model_dump(mode="json", by_alias=True, include={"env", "pod_labels", "allow_private_redirects"})
    assert found == {key: ACCESS[key] for key in found}
    assert settings.env_from[0].model_dump(by_alias=True, exclude_none=True) == ACCESS["envFrom"][0]
    assert (settings.hub.endpoint, settings.hub.cache.claim) == ("https://hub.example.com", "downloads")
    assert (settings.hub.token_secret.name, settings.hub.token_secret.key) == ("hub", "hf")
    assert (settings.proxy.http, settings.proxy.https) == ("", "http://proxy.example.com:3128")
    assert settings.proxy.no_proxy == [".example.com"]
    mlflow = settings.tracking.mlflow
    assert mlflow.model_dump() == {"uri": "https://mlflow.example.com", "experiment": "All", "secret": "mlflow"}
    assert (settings.ca_bundle.config_map, settings.ca_bundle.key) == ("roots", "ca.crt")


def test_a_namespaces_identity_wins_over_that_of_all() -> None:
    accounts = {"annotations": {ROLE: "all", CLIENT: "all"}, "namespaces": {"b": {ROLE: "b"}}}
    manifests = render("--set=trainer.namespaces={a,b}", f"--set-json=trainer.serviceAccount={json.dumps(accounts)}")
    for namespace, role in (("a", "all"), ("b", "b")):
        account = named(manifests, "ServiceAccount", names.TRAINER_SERVICE_ACCOUNT, namespace)
        annotations = account["metadata"]["annotations"]
        own = {names.TRAINER_IMAGE_ANNOTATION, names.TRAINER_USER_ANNOTATION, "helm.sh/resource-policy"}
        assert {key: value for key, value in annotations.items() if key not in own} == {ROLE: role, CLIENT: "all"}


@pytest.mark.parametrize("mode", ["evaluation", "none"])
def test_tasks_are_deleted_only_where_a_history_keeps_them(mode: str) -> None:
    role = named(render(f"--set=history.mode={mode}"), "Role", "trainingtask-operator")
    deletable = {resource for rule in role["rules"] if "delete" in rule["verbs"] for resource in rule["resources"]}
    assert ("trainingtasks" in deletable) == (mode != "none")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('env=[{"name":"TRAININGTASK_POD","value":"x"}]', "at '/trainer/env/0/name'"),
        ('env=[{"name":"A","valueFrom":{}}]', "at '/trainer/env/0': additional properties 'valueFrom' not allowed"),
        ('envFrom=[{"secretRef":{"name":"a"},"configMapRef":{"name":"b"}}]', "at '/trainer/envFrom/0'"),
        ('podLabels={"trainingtask.dev/task-uid":"x"}', "invalid propertyName 'trainingtask.dev/task-uid'"),
        ('caBundle={"configMap":"a","secret":"b"}', "at '/trainer/caBundle'"),
        ('tracking={"mlflow":{"uri":"https://me:secret@mlflow.example.com"}}', "at '/trainer/tracking/mlflow/uri'"),
        ('proxy={"https":"proxy:3128"}', "at '/trainer/proxy/https'"),
        (
            'serviceAccount={"annotations":{"trainingtask.dev/trainer-image":"x"}}',
            "invalid propertyName 'trainingtask.dev",
        ),
        ('serviceAccount={"namespaces":{"default":{"helm.sh/a":"x"}}}', "invalid propertyName 'helm.sh/a'"),
        ('serviceAccount={"namespaces":{"typo":{"a":"b"}}}', "names 'typo', which is not among trainer.namespaces"),
    ],
)
def test_a_wrong_access_value_is_refused_by_its_path(option: str, message: str) -> None:
    assert_refused(message, f"--set-json=trainer.{option}")


def test_variables_of_secrets_are_refused_where_code_comes_from_images_alone() -> None:
    sources = '--set-json=trainer.envFrom=[{"secretRef":{"name":"store"}}]'
    assert_refused(
        "trainer.envFrom and policy.code.configMaps: false exclude each other",
        sources,
        "--set=policy.code.configMaps=false",
    )
