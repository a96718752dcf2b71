"""A second release with Roles in two namespaces alone, on a platform that lets no pod choose a fixed user.

The first operator stands still meanwhile: it watches the whole cluster, and both would write the same statuses.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from support.audit_log import get_used_right, is_allowed, read_audit_events
from support.helm import CHART, get_rights, helm
from support.kubectl import Kubectl, Refused, run
from support.release import OPERATOR, get_image_options

RELEASE, SYSTEM = "scoped", "scoped-system"
TEAMS = ("scoped-a", "scoped-b")
NAME = f"{RELEASE}-trainingtask-operator"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:{NAME}"
POLICIES = ("task-policy", "trainer-policy", "trainer-pods-policy")
# As OpenShift's restricted-v2 gives them to a namespace; its group is root's, which owns no file that a pod may write.
USER = {"runAsUser": 1000650000, "runAsGroup": 0, "fsGroup": 1000650000}


def build_user_policy() -> list[dict[str, Any]]:
    """Return a policy that refuses a pod whose user or group of volumes is not of its namespace's range, and its binding.

    The database's pods are left out: the image of the tests, unlike PostgreSQL's own, knows its user alone.
    """
    name = "restricted-users"
    chosen = "!has(object.spec.securityContext.{0}) || int(object.spec.securityContext.{0} / 10000) == 100065"
    selector = {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [SYSTEM, *TEAMS]}]
    }
    others = {"matchExpressions": [{"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["history"]}]}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    api = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    validations = [
        {"expression": chosen.format(field), "message": f"{field} is not in the range of the namespace"}
        for field in ("runAsUser", "fsGroup")
    ]
    constraints = {"namespaceSelector": selector, "objectSelector": others, "resourceRules": [rule]}
    return [
        {
            **api,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {"failurePolicy": "Fail", "matchConstraints": constraints, "validations": validations},
        },
        {
            **api,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


@pytest.fixture(scope="module")
def scoped(system: Kubectl) -> Iterator[datetime]:
    """Install the second release, as its guide says; yield the time before that."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name in (SYSTEM, *TEAMS)
    ]
    teams = f"--set=trainer.namespaces={{{','.join(TEAMS)}}}"
    templates = (f"--show-only=templates/{policy}.yaml" for policy in POLICIES)
    rendered = helm("template", RELEASE, str(CHART), f"--namespace={SYSTEM}", teams, *templates)
    assert rendered.returncode == 0, rendered.stderr
    of_admin = f"{rendered.stdout}\n---\n{yaml.safe_dump_all(build_user_policy())}"
    system("scale", OPERATOR, "--replicas=0")
    begin = datetime.now(UTC)
    try:
        run("kubectl", "apply", "-f", "-", stdin=yaml.safe_dump_all(namespaces))
        run("kubectl", "apply", "-f", "-", stdin=of_admin)
        done = helm(
            "install", RELEASE, str(CHART), f"--namespace={SYSTEM}", teams, "--set=rbac.namespaced=true",
            "--set=rbac.aggregateClusterRoles=false", "--set=crd.install=false", "--set=replicas=2",
            "--set-string=trainer.devices.cpu.resources.storage=", "--set=trainer.devices.cpu.resources.cpu=500m",
            *(f"--set-json={part}podSecurityContext={json.dumps(USER)}" for part in ("", "trainer.")),
            *get_image_options(), "--wait", "--timeout=5m",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield begin
    finally:
        helm("uninstall", RELEASE, f"--namespace={SYSTEM}", "--ignore-not-found")
        run("kubectl", "delete", "--ignore-not-found", "-f", "-", stdin=of_admin)
        run("kubectl", "delete", "namespace", SYSTEM, *TEAMS, "--ignore-not-found", "--wait=false")
        system("scale", OPERATOR, "--replicas=1")
        system("rollout", "status", OPERATOR, "--timeout=3m")


def test_a_fixed_user_is_refused_on_this_platform(scoped: datetime) -> None:
    # It meets the restricted standard in all but its user.
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "image": "a", "securityContext": context}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fixed"}, "spec": spec}
    with pytest.raises(Refused, match="runAsUser is not in the range of the namespace"):
        Kubectl(TEAMS[0])("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_it_trains_and_records_with_roles_alone(scoped: datetime) -> None:
    done = helm("test", RELEASE, f"--namespace={SYSTEM}", "--logs", "--timeout=15m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its row in the history says Succeeded" in done.stdout
    requests = [event for event in read_audit_events(scoped) if event["user"]["username"] == ACCOUNT]
    assert requests
    assert [event["requestURI"] for event in requests if not is_allowed(event)] == []
    # tests/faults/test_namespaced.py uses all rights in the teams' namespaces.
    own = {get_used_right(event) for event in requests if event.get("objectRef", {}).get("namespace") == SYSTEM}
    assert own == get_rights(Kubectl(SYSTEM).get("role", f"{NAME}-lease"))
