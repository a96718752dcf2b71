"""The chart's optional web app: what it may do, and where its secrets come from."""

import base64

import pytest
from sqlalchemy import make_url

from charts import CHART, Manifest, helm, named, of_kind, render
from trainingtask_api import names
from trainingtask_web.settings import load_settings

WEB = "tt-trainingtask-operator-web"
ENABLED = "--set=web.enabled=true"
EXTERNAL = ("--set=history.mode=external", "--set=history.external.operatorSecret.name=db")


def container_of(manifests: list[Manifest]) -> Manifest:
    container: Manifest = named(manifests, "Deployment", WEB)["spec"]["template"]["spec"]["containers"][0]
    return container


def test_it_is_not_there_unless_asked_for() -> None:
    assert not [manifest for manifest in render() if manifest["metadata"]["name"].startswith(WEB)]


def test_it_may_review_and_list_namespaces_and_nothing_else() -> None:
    rules = named(render(ENABLED), "ClusterRole", WEB)["rules"]
    assert {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]} == {
        ("tokenreviews", "create"),
        ("subjectaccessreviews", "create"),
        ("namespaces", "list"),
    }
    assert not [role for role in of_kind(render(ENABLED), "Role") if role["metadata"]["name"] == WEB]


def test_its_pod_is_restricted() -> None:
    pod = named(render(ENABLED), "Deployment", WEB)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_it_reads_with_a_role_of_its_own() -> None:
    variables = {variable["name"]: variable for variable in container_of(render(ENABLED))["env"]}
    assert make_url(variables[names.ENV_HISTORY_URL]["value"]).username == names.HISTORY_READER_ROLE
    password = {"name": "tt-trainingtask-operator-postgres", "key": "reader-password"}
    assert variables["PGPASSWORD"]["valueFrom"] == {"secretKeyRef": password}


def test_it_understands_its_environment() -> None:
    environment = {
        variable["name"]: variable.get("value", "postgresql://reader:secret@db/trainingtask")
        for variable in container_of(render(ENABLED, "--set=trainer.namespaces={ml,other}"))["env"]
    }
    settings = load_settings(environment)
    assert (settings.namespace, settings.secure_cookie, settings.auth.value) == ("ml", True, "kubernetes")
    assert settings.port == container_of(render(ENABLED))["ports"][0]["containerPort"]
    mounted = {mount["mountPath"] for mount in container_of(render(ENABLED))["volumeMounts"]}
    assert settings.session_key_file is not None
    assert str(settings.session_key_file.parent) in mounted
    key = named(render(ENABLED), "Secret", WEB)["stringData"][settings.session_key_file.name]
    assert len(base64.b64encode(key.encode())) > 64


def test_an_external_database_needs_a_secret_for_it() -> None:
    refused = helm("template", "tt", str(CHART), ENABLED, *EXTERNAL)
    assert refused.returncode != 0
    assert "history.external.readerSecret.name" in refused.stderr
    manifests = render(ENABLED, *EXTERNAL, "--set=history.external.readerSecret.name=reader")
    variables = {variable["name"]: variable for variable in container_of(manifests)["env"]}
    assert variables[names.ENV_HISTORY_URL]["valueFrom"] == {"secretKeyRef": {"name": "reader", "key": "url"}}


def test_without_a_history_there_is_nothing_to_show() -> None:
    refused = helm("template", "tt", str(CHART), ENABLED, "--set=history.mode=none")
    assert refused.returncode != 0
    assert "web.enabled needs a history" in refused.stderr


@pytest.mark.parametrize(
    "option", ["--set=web.replicas=0", "--set=web.namespace=Bad_Name", "--set=history.retentionDays=-1"]
)
def test_a_wrong_value_is_refused(option: str) -> None:
    done = helm("template", "tt", str(CHART), ENABLED, option)
    assert done.returncode != 0
    assert option.split("=")[1].replace(".", "/") in done.stderr
