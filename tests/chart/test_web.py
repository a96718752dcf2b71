"""The chart's optional web app: its rights, settings and Secrets."""

import json

import pytest
from sqlalchemy import make_url

from support.helm import CHART, Manifest, assert_refused, helm, named, of_kind, render
from trainingtask_api import names
from trainingtask_web.settings import load_settings

WEB = "tt-trainingtask-operator-web"
ENABLED = "--set=web.enabled=true"
EXTERNAL = ("--set=history.mode=external", "--set=history.external.operatorSecret.name=db")


def container_of(manifests: list[Manifest]) -> Manifest:
    container: Manifest = named(manifests, "Deployment", WEB)["spec"]["template"]["spec"]["containers"][0]
    return container


def environment_of(manifests: list[Manifest]) -> dict[str, str]:
    return {
        variable["name"]: variable.get("value", "postgresql://reader:secret@db/trainingtask")
        for variable in container_of(manifests)["env"]
    }


def test_the_web_app_is_off_by_default() -> None:
    assert not [manifest for manifest in render() if manifest["metadata"]["name"].startswith(WEB)]


def test_the_web_app_may_only_review_and_list_namespaces() -> None:
    rules = named(render(ENABLED), "ClusterRole", WEB)["rules"]
    assert {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]} == {
        ("tokenreviews", "create"),
        ("subjectaccessreviews", "create"),
        ("namespaces", "list"),
    }
    assert not [role for role in of_kind(render(ENABLED), "Role") if role["metadata"]["name"] == WEB]


def test_the_web_pod_is_restricted() -> None:
    pod = named(render(ENABLED), "Deployment", WEB)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_web_app_reads_with_the_reader_role() -> None:
    variables = {variable["name"]: variable for variable in container_of(render(ENABLED))["env"]}
    assert make_url(variables[names.ENV_HISTORY_URL]["value"]).username == names.HISTORY_READER_ROLE
    password = {"name": "tt-trainingtask-operator-postgres", "key": "reader-password"}
    assert variables["PGPASSWORD"]["valueFrom"] == {"secretKeyRef": password}


def test_the_rendered_environment_is_valid_for_the_web_app() -> None:
    settings = load_settings(environment_of(render(ENABLED, "--set=trainer.namespaces={ml,other}")))
    assert (settings.namespace, settings.secure_cookie, settings.auth.value) == ("ml", True, "kubernetes")
    assert settings.port == container_of(render(ENABLED))["ports"][0]["containerPort"]


def test_allowed_hosts_are_the_services_names_and_web_hosts() -> None:
    hosts = ["--set=web.hosts={runs.example.com}", "--set=web.trustedProxies={10.42.0.0/16,fd00::/8}", "--namespace=ml"]
    settings = load_settings(environment_of(render(ENABLED, *hosts)))
    assert {"localhost", "127.0.0.1", WEB, f"{WEB}.ml.svc", f"{WEB}.ml.svc.cluster.local", "runs.example.com"} <= set(
        settings.hosts
    )
    assert settings.trusted_proxies == ("10.42.0.0/16", "fd00::/8")
    assert load_settings(environment_of(render(ENABLED))).trusted_proxies == ()


def test_sessions_are_in_one_process_and_need_no_secret() -> None:
    manifests = render(ENABLED)
    assert named(manifests, "Deployment", WEB)["spec"]["replicas"] == 1
    assert WEB not in [secret["metadata"]["name"] for secret in of_kind(manifests, "Secret")]


def test_an_external_database_needs_a_secret_for_it() -> None:
    refused = helm("template", "tt", str(CHART), ENABLED, *EXTERNAL)
    assert refused.returncode != 0
    assert "history.external.readerSecret.name" in refused.stderr
    manifests = render(ENABLED, *EXTERNAL, "--set=history.external.readerSecret.name=reader")
    variables = {variable["name"]: variable for variable in container_of(manifests)["env"]}
    assert variables[names.ENV_HISTORY_URL]["valueFrom"] == {"secretKeyRef": {"name": "reader", "key": "url"}}


def test_the_web_app_needs_a_history() -> None:
    refused = helm("template", "tt", str(CHART), ENABLED, "--set=history.mode=none")
    assert refused.returncode != 0
    assert "web.enabled needs a history" in refused.stderr


@pytest.mark.parametrize(
    "option",
    [
        "--set=web.hosts={a/b}",
        "--set=web.hosts={a.example.com:8443}",
        "--set=web.trustedProxies={*}",
        "--set=web.namespace=Bad_Name",
        "--set=history.retentionDays=-1",
    ],
)
def test_a_wrong_value_is_refused(option: str) -> None:
    assert_refused(option.split("=")[1].replace(".", "/"), ENABLED, option)


def test_the_number_of_web_pods_is_no_value() -> None:
    refused = helm("template", "tt", str(CHART), ENABLED, "--set=web.replicas=2")
    assert refused.returncode != 0
    assert "replicas" in refused.stderr


@pytest.mark.parametrize("path", ["", "/trainingtask"])
def test_an_ingress_leads_each_host_to_the_service(path: str) -> None:
    options = [ENABLED, "--set=web.hosts={a.example.com,b.example.com}", f"--set=web.basePath={path}"]
    options += [
        "--set=web.ingress.enabled=true",
        "--set=web.ingress.className=nginx",
        "--set=web.ingress.tlsSecret=tls",
    ]
    manifests = render(*options, '--set-json=web.ingress.annotations={"cert-manager.io/issuer":"ca"}')
    ingress, service = named(manifests, "Ingress", WEB), named(manifests, "Service", WEB)
    hosts = ["a.example.com", "b.example.com"]
    assert ingress["metadata"]["annotations"] == {"cert-manager.io/issuer": "ca"}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"secretName": "tls", "hosts": hosts}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == hosts
    for rule in ingress["spec"]["rules"]:
        (way,) = rule["http"]["paths"]
        backend = {
            "service": {"name": service["metadata"]["name"], "port": {"name": service["spec"]["ports"][0]["name"]}}
        }
        assert way == {"path": path or "/", "pathType": "Prefix", "backend": backend}
    assert load_settings(environment_of(manifests)).base_path == path


def test_an_http_route_leads_to_the_service() -> None:
    gateway = {"name": "shared", "namespace": "gateways"}
    options = [ENABLED, "--set=web.hosts={a.example.com}", "--set=web.basePath=/tt", "--set=web.httpRoute.enabled=true"]
    manifests = render(*options, f"--set-json=web.httpRoute.parentRefs={json.dumps([gateway])}")
    route, service = named(manifests, "HTTPRoute", WEB), named(manifests, "Service", WEB)
    assert (route["spec"]["parentRefs"], route["spec"]["hostnames"]) == ([gateway], ["a.example.com"])
    (rule,) = route["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/tt"}}]
    assert rule["backendRefs"] == [{"name": WEB, "port": service["spec"]["ports"][0]["port"]}]


@pytest.mark.parametrize("kind", ["ingress", "httpRoute"])
def test_a_route_without_hosts_is_refused(kind: str) -> None:
    done = helm("template", "tt", str(CHART), ENABLED, f"--set=web.{kind}.enabled=true")
    assert "web.ingress and web.httpRoute need web.hosts" in done.stderr
    assert not {"Ingress", "HTTPRoute"} & {manifest["kind"] for manifest in render(ENABLED)}


def test_a_route_of_an_address_or_without_a_gateway_is_refused() -> None:
    hosts = "--set=web.hosts={10.0.0.1,fd00::1}"
    assert render(ENABLED, hosts), "without a route it is fine"
    assert_refused("web.hosts has the address '10.0.0.1'", ENABLED, hosts, "--set=web.ingress.enabled=true")
    assert_refused(
        "needs web.httpRoute.parentRefs", ENABLED, "--set=web.hosts={a.example.com}", "--set=web.httpRoute.enabled=true"
    )
