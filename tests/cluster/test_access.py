"""Trainers with everything that the chart's values of access give them, in a namespace that enforces `restricted`."""

import json
from collections.abc import Callable, Iterator

import pytest

from support import specs
from support.helm import CHART
from support.kubectl import Kubectl, run
from support.ports import free_port
from support.release import RELEASE, SYSTEM
from trainingtask_api import names

ROLE = "eks.amazonaws.com/role-arn"


@pytest.fixture(scope="module")
def access(kubectl: Kubectl, empty_claim: str) -> Iterator[str]:
    """Upgrade the release with a proxy that is away, authorities, a shared cache and an identity; yield the proxy's address."""
    proxy = f"http://{kubectl.get_node_address()}:{free_port()}"
    values = {
        "proxy": {"http": proxy, "https": proxy},
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


def test_the_namespaces_account_has_identity_and_image(kubectl: Kubectl, access: str) -> None:
    annotations = kubectl.get("serviceaccount", names.TRAINER_SERVICE_ACCOUNT)["metadata"]["annotations"]
    assert annotations[ROLE] == "a-role"
    assert "trainer" in annotations[names.TRAINER_IMAGE_ANNOTATION]
