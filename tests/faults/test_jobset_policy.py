"""JobSets and their Jobs that claim to be a task's, refused by a real API server; JobSet's controller is not hindered."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.control_plane import ControlPlane
from support.crds import build_crd
from support.helm import named, render
from support.kubectl import Kubectl, Manifest, Refused, eventually, run
from trainingtask_api import names

NAMESPACE = "policy-jobset"
NAME = "tt-trainingtask-operator"
OPERATOR = f"system:serviceaccount:ops:{NAME}"
CONTROLLER = "system:serviceaccount:jobset-system:jobset-controller-manager"
MULTIKUEUE = "system:serviceaccount:kueue-system:multikueue"
USER = "jane"
LABEL = {names.TASK_UID_LABEL: "uid-of-the-task"}
TASK = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "t", "uid": "1", "controller": True}
JOBSET = {
    "apiVersion": names.JOBSET_API_VERSION,
    "kind": names.JOBSET_KIND,
    "name": "j",
    "uid": "2",
    "controller": True,
}


class Users(Kubectl):
    """kubectl as any user; each is an admin, so that only the policy refuses."""

    def create(self, user: str, manifest: Manifest) -> str:
        """Create the object; return the API server's refusal, "" if it accepts."""
        options = (f"--as={user}", "--as-group=system:masters", "--dry-run=server", "-f", "-")
        try:
            self("create", *options, stdin=json.dumps(manifest))
        except Refused as refusal:
            return str(refusal)
        return ""


@pytest.fixture(scope="module")
def users(plane: ControlPlane) -> Iterator[Users]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig()))
        run("kubectl", "create", "namespace", NAMESPACE)
        kubectl = Users(NAMESPACE)
        kubectl.apply(build_crd(*names.JOBSET_API_VERSION.split("/"), names.JOBSET_KIND))
        query = "--output=jsonpath={.status.conditions[?(@.status=='True')].type}"
        eventually("the kind", lambda: "Established" in kubectl("get", "crd", "jobsets.jobset.x-k8s.io", query))
        manifests = render(f"--set=trainer.namespaces={{{NAMESPACE}}}", f"--set=kueue.controllers={{{MULTIKUEUE}}}")
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            kubectl.apply(named(manifests, kind, f"{NAME}-task-children"))
        eventually("the policy holds", lambda: "task-uid is set by" in kubectl.create(USER, make_jobset(labels=LABEL)))
        yield kubectl


def make_job_template(labels: dict[str, str] | None = None, pod_labels: dict[str, str] | None = None) -> Manifest:
    pod = {"containers": [{"name": "trainer", "image": "x"}], "restartPolicy": "Never"}
    return {
        "metadata": {"labels": labels or {}},
        "spec": {"template": {"metadata": {"labels": pod_labels or {}}, "spec": pod}},
    }


def make_jobset(*, template: Manifest | None = None, **metadata: Any) -> Manifest:
    replicated = {"name": "trainer", "replicas": 1, "template": template or make_job_template()}
    return {
        "apiVersion": names.JOBSET_API_VERSION,
        "kind": names.JOBSET_KIND,
        "metadata": {"name": "j", **metadata},
        "spec": {"suspend": True, "replicatedJobs": [replicated]},
    }


def make_job(*owners: Manifest, labels: dict[str, str] | None = None) -> Manifest:
    metadata = {"name": "j-trainer-0", "labels": labels or {}, "ownerReferences": list(owners)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": make_job_template(None, labels)["spec"],
    }


def make_tasks_jobset() -> Manifest:
    return make_jobset(labels=LABEL, ownerReferences=[TASK], template=make_job_template(LABEL, LABEL))


def test_the_operator_and_jobsets_controller_create_a_tasks_group(users: Users) -> None:
    assert users.create(OPERATOR, make_tasks_jobset()) == ""
    assert users.create(CONTROLLER, make_job(JOBSET, labels=LABEL)) == ""


def test_multikueue_creates_what_other_clusters_tasks_have_without_an_owner(users: Users) -> None:
    assert users.create(MULTIKUEUE, make_jobset(labels=LABEL, template=make_job_template(LABEL, LABEL))) == ""
    assert users.create(MULTIKUEUE, make_job(labels=LABEL)) == ""
    assert "only the trainingtask-operator" in users.create(MULTIKUEUE, make_job(TASK, labels=LABEL))


def test_jobsets_of_users_are_not_hindered(users: Users) -> None:
    assert users.create(USER, make_jobset()) == ""
    assert users.create(CONTROLLER, make_job(JOBSET)) == ""


@pytest.mark.parametrize("user", [USER, CONTROLLER])
@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"labels": LABEL}, "task-uid is set by"),
        ({"ownerReferences": [TASK]}, "only the trainingtask-operator"),
        ({"template": make_job_template(LABEL)}, "also in a JobSet's templates"),
        ({"template": make_job_template(None, LABEL)}, "also in a JobSet's templates"),
    ],
)
def test_a_jobset_that_claims_to_be_a_tasks_is_refused(
    users: Users, user: str, claim: dict[str, Any], message: str
) -> None:
    assert message in users.create(user, make_jobset(**claim))


def test_a_job_that_claims_to_be_of_a_tasks_jobset_is_refused(users: Users) -> None:
    assert "task-uid is set by" in users.create(USER, make_job(JOBSET, labels=LABEL))
    assert "task-uid is set by" in users.create(CONTROLLER, make_job(labels=LABEL)), "it owns no task's Job itself"
    assert "only the trainingtask-operator" in users.create(CONTROLLER, make_job(TASK))


def test_a_suspended_jobset_may_change_but_not_become_a_tasks(users: Users) -> None:
    def patch(value: Any, *path: str) -> str:
        change = [{"op": "replace", "path": f"/{'/'.join(path)}", "value": value}]
        return users(
            "patch",
            "jobset",
            "j",
            f"--as={USER}",
            "--as-group=system:masters",
            "--type=json",
            f"-p={json.dumps(change)}",
        )

    users.apply(make_jobset())
    patch(False, "spec", "suspend")
    for kind in ("metadata", "spec/template/metadata"):
        with pytest.raises(Refused, match="also in a JobSet's templates"):
            patch(LABEL, "spec/replicatedJobs/0/template", kind, "labels")
    with pytest.raises(Refused, match="task-uid is set by"):
        patch(LABEL, "metadata", "labels")
