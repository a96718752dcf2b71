"""The client of the API server: whose credentials a request carries, and how the server is found."""

from pathlib import Path

import pytest
import yaml

from support.fake_api_server import OWN_TOKEN, FakeApiServer, make_kubeconfig
from trainingtask_web.auth.errors import ApiServerError, TaskRejected
from trainingtask_web.auth.kubernetes import ApiServer, load_configuration, make_configuration

TASK = {"kind": "TrainingTask", "metadata": {"name": "a"}, "spec": {}}


def test_a_task_is_created_with_the_users_token_alone(api: ApiServer, kubernetes: FakeApiServer) -> None:
    assert api.review_token("token-of-ann") is not None
    created = api.create_task("token-of-ann", "team-a", TASK)
    assert created["metadata"]["namespace"] == "team-a"
    assert [request.token for request in kubernetes.requests] == [OWN_TOKEN, "token-of-ann"]


def test_a_client_certificate_is_not_used_for_users() -> None:
    configuration = make_configuration(host="https://example.com", cert_file="cert.pem", key_file="key.pem")
    users = ApiServer(configuration)._bare.configuration
    assert (users.host, users.cert_file, users.key_file, users.api_key) == ("https://example.com", None, None, {})


def test_faults_and_rejections_are_different_errors(api: ApiServer, kubernetes: FakeApiServer) -> None:
    with pytest.raises(TaskRejected, match="cannot create") as rejected:
        api.create_task("token-of-bob", "team-a", TASK)
    assert rejected.value.status == 403
    kubernetes.respond = lambda *_: (200, "<html>a portal</html>")
    with pytest.raises(ApiServerError, match="no JSON"):
        api.list_namespaces()
    kubernetes.respond = lambda *_: (502, b"\xff")
    with pytest.raises(ApiServerError, match="refused to list namespaces: status 502"):
        api.list_namespaces()


def test_a_namespace_that_is_nested_deep_hides_no_other(api: ApiServer, kubernetes: FakeApiServer) -> None:
    fields = '{"f:a":' * 9000 + "{}" + "}" * 9000
    items = f'[{{"metadata": {{"uid": "u", "name": "n", "managedFields": [{{"fieldsV1": {fields}}}]}}}}]'
    kubernetes.respond = lambda *_: (200, f'{{"metadata": {{}}, "items": {items}}}')
    assert api.list_namespaces() == {"u": "n"}


def test_the_configuration_has_no_proxy_and_no_retries(
    kubernetes: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(make_kubeconfig(kubernetes.url, OWN_TOKEN)))
    configuration = load_configuration({"KUBECONFIG": str(file)})
    assert configuration is not None
    assert (configuration.host, configuration.proxy, configuration.retries) == (kubernetes.url, None, False)
    assert ApiServer(configuration).list_namespaces()["uid-of-team-a"] == "team-a"
    assert load_configuration({}) is None
