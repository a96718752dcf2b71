"""Trainers with everything that the chart's values of access give them, in a namespace that enforces `restricted`."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import specs
from support.helm import CHART
from support.http_server import HttpServer, serve_http
from support.kubectl import Kubectl, run
from support.mlflow_answers import answer_as_mlflow
from support.ports import free_port
from support.release import RELEASE, SYSTEM
from trainingtask_api import names

ROLE = "eks.amazonaws.com/role-arn"
TOKEN = "the-clusters-token"


@pytest.fixture(scope="module")
def mlflow(kubectl: Kubectl) -> Iterator[HttpServer]:
    """Run the cluster's MLflow server, whose token is in a Secret of the namespace."""
    token = {"MLFLOW_TRACKING_TOKEN": TOKEN}
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlflow"}, "stringData": token})
    with serve_http(answer_as_mlflow, host=kubectl.get_node_address()) as server:
        yield server


@pytest.fixture(scope="module")
def access(kubectl: Kubectl, empty_claim: str, mlflow: HttpServer) -> Iterator[str]:
    """Upgrade the release with all values of access, and a proxy that is away; yield the proxy's address."""
    proxy = f"http://{kubectl.get_node_address()}:{free_port()}"
    values = {
        "proxy": {"http": proxy, "https": proxy, "noProxy": [mlflow.host]},
        "tracking": {"mlflow": {"uri": mlflow.url, "secret": "mlflow"}},
        "caBundle": {"configMap": "kube-root-ca.crt"},  # in every namespace
        "hub": {"cache": {"claim": empty_claim}, "tokenSecret": {"name": "absent"}},
        "podLabels": {"azure.workload.identity/use": "true"},
        "serviceAccount": {"annotations": {ROLE: "a-role"}},
    }
    upgrade = ("helm", "upgrade", RELEASE, str(CHART), f"--namespace={SYSTEM}", "--reuse-values", "--wait")
    run(*upgrade, f"--set-json=trainer={json.dumps(values)}")
    yield proxy
    run("helm", "rollback", RELEASE, f"--namespace={SYSTEM}", "--wait")


def test_a_trainer_reports_although_the_proxy_is_away(
    kubectl: Kubectl, task: Callable[..., str], access: str, empty_claim: str
) -> None:
    kubectl.wait(task("behind-a-proxy", specs.CLASSICAL), "Complete")
    (pod,) = kubectl.pods("behind-a-proxy")
    (container,) = pod["spec"]["containers"]
    assert {"name": "HTTPS_PROXY", "value": access} in container["env"]
    claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["spec"]["volumes"]]
    assert empty_claim in claims
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"

    manifest = json.loads(kubectl("get", "trainingtask", "behind-a-proxy", "--output=json", "--show-managed-fields"))
    assert names.TRAINER_FIELD_MANAGER in {entry["manager"] for entry in manifest["metadata"]["managedFields"]}


def test_trainers_report_to_the_clusters_mlflow_server(
    kubectl: Kubectl,
    task: Callable[..., str],
    access: str,
    mlflow: HttpServer,
    final_row: Callable[[str], dict[str, Any]],
) -> None:
    kubectl.wait(task("tracked", specs.CLASSICAL), "Complete")
    training = kubectl.get("trainingtask", "tracked")["status"]["training"]
    assert training["trackingUrl"] == f"{mlflow.url}/#/experiments/1/runs/r1" == final_row("tracked")["tracking_url"]
    assert {request.headers["authorization"] for request in mlflow.requests} == {f"Bearer {TOKEN}"}
    (last,) = (json.loads(request.body) for request in mlflow.requests[-1:])
    assert (last["run_id"], last["status"]) == ("r1", "FINISHED")


def test_a_tasks_own_mlflow_server_gets_no_token_of_the_clusters(
    kubectl: Kubectl, task: Callable[..., str], access: str, mlflow: HttpServer
) -> None:
    with serve_http(answer_as_mlflow, host=mlflow.host) as own:
        spec = specs.changed(specs.CLASSICAL, tracking={"mlflow": {"uri": own.url, "experiment": "mine"}})
        kubectl.wait(task("tracked-elsewhere", spec), "Complete")
        assert own.requests[0].path.endswith("?experiment_name=mine")
        assert not any("authorization" in request.headers for request in own.requests)


def test_the_namespaces_account_has_identity_and_image(kubectl: Kubectl, access: str) -> None:
    annotations = kubectl.get("serviceaccount", names.TRAINER_SERVICE_ACCOUNT)["metadata"]["annotations"]
    assert annotations[ROLE] == "a-role"
    assert "trainer" in annotations[names.TRAINER_IMAGE_ANNOTATION]
