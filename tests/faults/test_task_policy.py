"""Tasks that ask for what the admin's `policy` values withhold, refused by a real API server."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import dry_run, specs
from support.control_plane import ControlPlane
from support.dry_run import DryRun
from support.helm import render
from support.kubectl import Kubectl, Manifest, Refused, eventually, run

KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
LABELS, OWNERS = 64, 16
NARROW = (
    "--set=policy.images.allowedPrefixes={registry.example.com/team,mirror.example.com,other.example.com/a/,trainer:2}",
    "--set=policy.code.configMaps=false",
    "--set=policy.env.allowedNames={HF_TOKEN,OTHER_TOKEN}",
    "--set=policy.env.allowedSecrets={hf-*,hub-token}",
    "--set=policy.priorityClasses.allowed={low,system-cluster-critical}",
    "--set=policy.workloadPriorityClasses.allowed={usual,urgent}",
    "--set=policy.queues.allowed={team-a,team-b}",
)


def secret(name: str, variable: str = "HF_TOKEN") -> dict[str, Any]:
    return {"name": variable, "secretKeyRef": {"name": name, "key": "k"}}


# Changes of a good spec that NARROW lets through.
ALLOWED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "image-folder": {"image": "registry.example.com/team/x/trainer:1"},
    "image-tag": {"image": "registry.example.com/team:1"},
    "image-digest": {"image": "registry.example.com/team@sha256:" + "0" * 64},
    "image-host": {"image": "mirror.example.com/anything:1"},
    "image-slash": {"image": "other.example.com/a/b"},
    "image-exact": {"image": "trainer:2"},
    "class-in-image": {"model__name": "my_models.naive:NaiveBayes"},
    "secret-exact": {"env": [secret("hub-token")]},
    "secret-prefix": {"env": [secret("hf-1"), secret("hf-mine.1", "OTHER_TOKEN")]},
    "priority": {"runPolicy__priorityClassName": "low"},
    "priority-system-listed": {"runPolicy__priorityClassName": "system-cluster-critical"},
    "workload-priority": {"runPolicy__workloadPriorityClassName": "urgent"},
    "queue": {"runPolicy__queueName": "team-b"},
}
IMAGES = (
    "must begin with registry.example.com/team, mirror.example.com, other.example.com/a/, trainer:2, or be left out"
)
# Changes that it refuses, and the message.
ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"image": "evil.example.com/x"}, f"spec.image 'evil.example.com/x' is refused: {IMAGES}"),
    "image-sibling": ({"image": "registry.example.com/team-evil/x"}, IMAGES),
    "image-parent": ({"image": "registry.example.com/x"}, IMAGES),
    "image-path-in-middle": ({"image": "evil.example.com/registry.example.com/team/x"}, IMAGES),
    "image-subdomain": ({"image": "mirror.example.com.evil.org/x"}, IMAGES),
    "image-other-port": ({"image": "mirror.example.com:5000/x"}, IMAGES),
    "image-other-case": ({"image": "Registry.example.com/team/x"}, IMAGES),
    "image-shorter-than-slash": ({"image": "other.example.com/a"}, IMAGES),
    "image-longer-tag": ({"image": "trainer:21"}, IMAGES),
    "code": ({"code": {"configMap": "mine"}}, "spec.code.configMap 'mine' is refused: code comes from images alone"),
    "code-by-variable": ({"env": [secret("hf-x", "PYTHONPATH")]}, "spec.env 'PYTHONPATH' is refused: allowed are HF_TOKEN, OTHER_TOKEN"),
    "secret": ({"env": [secret("db-admin")]}, "spec.env.secretKeyRef.name 'db-admin' is refused: allowed are hf-*, hub-token"),
    "secret-second": ({"env": [secret("hub-token"), secret("db-admin", "OTHER_TOKEN")]}, "'db-admin' is refused"),
    "secret-longer": ({"env": [secret("hub-token-2")]}, "'hub-token-2' is refused"),
    "secret-prefix-inside": ({"env": [secret("x-hf-1")]}, "'x-hf-1' is refused"),
    "priority": ({"runPolicy__priorityClassName": "high"}, "spec.runPolicy.priorityClassName 'high' is refused: allowed are low, system-cluster-critical"),
    "priority-system": ({"runPolicy__priorityClassName": "system-node-critical"}, "'system-node-critical' is refused"),
    "workload-priority": ({"runPolicy__workloadPriorityClassName": "first"}, "spec.runPolicy.workloadPriorityClassName 'first' is refused: allowed are usual, urgent"),
    "queue": ({"runPolicy__queueName": "team-c"}, "spec.runPolicy.queueName 'team-c' is refused: allowed are team-a, team-b"),
}  # fmt: skip


def make_task(**changes: Any) -> Manifest:
    return without_namespace(specs.changed(specs.CLASSICAL, **changes))


def without_namespace(spec: dict[str, Any]) -> Manifest:
    task = specs.task("x", spec)
    del task["metadata"]["namespace"]
    return task


def make_labelled_task(count: int) -> Manifest:
    task = make_task()
    # As long as Kubernetes lets a label be.
    task["metadata"]["labels"] = {f"{n:0>253}/{'k' * 63}": "v" * 63 for n in range(count)}
    return task


def make_owned_task(count: int, name: str = "x") -> Manifest:
    task = make_task()
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name}
    task["metadata"]["ownerReferences"] = [{**owner, "uid": str(n)} for n in range(count)]
    return task


class PolicyNamespace(Kubectl):
    """A namespace in which the policies of some chart values are enforced."""

    def __init__(self, namespace: str, api_server: DryRun) -> None:
        super().__init__(namespace)
        self._api_server = api_server

    def get_refusal(self, task: Manifest) -> str:
        """Return the message with which the API server refuses a task, "" if it accepts."""
        metadata = task["metadata"] | {"namespace": self.namespace}
        return self._api_server.get_refusal(task | {"metadata": metadata})

    def enforce(self, *values: str) -> None:
        """Apply the policies that the chart makes of the values, for this namespace, and wait until they are enforced."""
        manifests = [m for m in render(f"--set=fullnameOverride={self.namespace}", *values) if m["kind"] in KINDS]
        for manifest in manifests:
            if manifest["kind"] == KINDS[1]:
                selector = {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}
                manifest["spec"]["matchResources"] = {"namespaceSelector": selector}
        self.apply(*manifests)
        attacks = (make_task(runPolicy__priorityClassName="system-node-critical"), make_labelled_task(LABELS + 1))
        eventually("the policies hold", lambda: all(self.get_refusal(attack) for attack in attacks))


CreateNamespace = Callable[[str], PolicyNamespace]


@pytest.fixture(scope="module")
def create_namespace(plane: ControlPlane) -> Iterator[CreateNamespace]:
    """Point kubectl, helm and the CLI at the session's API server; yield a function that creates a namespace by name."""

    def create(name: str) -> PolicyNamespace:
        run("kubectl", "create", "namespace", name)
        return PolicyNamespace(name, api_server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig()))
        with dry_run.connect() as api_server:
            yield create


@pytest.fixture(scope="module")
def narrow(create_namespace: CreateNamespace) -> PolicyNamespace:
    namespace = create_namespace("policy-narrow")
    namespace.enforce(*NARROW)
    return namespace


@pytest.fixture(scope="module")
def default(create_namespace: CreateNamespace) -> PolicyNamespace:
    namespace = create_namespace("policy-default")
    namespace.enforce()
    return namespace


@pytest.mark.parametrize("case", ALLOWED)
def test_what_the_admin_allows_is_accepted(narrow: PolicyNamespace, case: str) -> None:
    assert narrow.get_refusal(make_task(**ALLOWED[case])) == ""


@pytest.mark.parametrize("case", ATTACKS)
def test_what_the_admin_withholds_is_refused(narrow: PolicyNamespace, case: str) -> None:
    changes, sentence = ATTACKS[case]
    assert sentence in narrow.get_refusal(make_task(**changes))


@pytest.mark.parametrize("good", specs.GOOD)
def test_without_values_every_good_spec_is_accepted(default: PolicyNamespace, good: str) -> None:
    assert default.get_refusal(without_namespace(specs.GOOD[good])) == ""


@pytest.mark.parametrize("name", ["system-node-critical", "system-cluster-critical"])
def test_without_values_the_clusters_own_priority_is_refused(default: PolicyNamespace, name: str) -> None:
    refusal = default.get_refusal(make_task(runPolicy__priorityClassName=name))
    assert f"spec.runPolicy.priorityClassName '{name}' is refused: classes that begin with 'system-'" in refusal


def test_without_code_only_tokens_and_keys_may_be_set(create_namespace: CreateNamespace) -> None:
    namespace = create_namespace("policy-no-code")
    namespace.enforce("--set=policy.code.configMaps=false")
    allowed = [secret("any"), secret("store", "AWS_SECRET_ACCESS_KEY"), secret("mlflow", "MLFLOW_TRACKING_TOKEN")]
    assert namespace.get_refusal(make_task(env=allowed)) == ""
    assert "spec.env 'LD_PRELOAD' is refused: allowed are HF_TOKEN" in namespace.get_refusal(
        make_task(env=[secret("any", "LD_PRELOAD")])
    )


def test_labels_and_owners_are_bounded(default: PolicyNamespace) -> None:
    for task in (make_labelled_task(LABELS), make_owned_task(OWNERS)):
        assert default.get_refusal(task) == ""
    assert "metadata.labels has 65 labels: at most 64 are allowed" in default.get_refusal(
        make_labelled_task(LABELS + 1)
    )
    many = make_task()
    many["metadata"]["labels"] = {
        f"k{n}": "" for n in range(50_000)
    }  # without a bound more than an evaluation may cost
    assert "metadata.labels has 50000 labels" in default.get_refusal(many)
    assert "metadata.ownerReferences has 17 owners: at most 16" in default.get_refusal(make_owned_task(OWNERS + 1))
    assert "metadata.ownerReferences has 1 owners" in default.get_refusal(make_owned_task(1, name="x" * 10**6))


def test_a_task_over_a_bound_can_change_but_not_grow(create_namespace: CreateNamespace) -> None:
    namespace = create_namespace("policy-before")
    past, within = make_labelled_task(LABELS + 1), make_labelled_task(LABELS)
    past["metadata"]["name"], within["metadata"]["name"] = "past", "within"
    namespace("create", "-f", "-", stdin=json.dumps(past))
    namespace.enforce()
    namespace("create", "-f", "-", stdin=json.dumps(within))
    suspend = ("--type=merge", '--patch={"spec":{"runPolicy":{"suspend":true}}}')
    for name in ("past", "within"):
        namespace("patch", "trainingtask", name, *suspend)
        with pytest.raises(Refused, match="labels: at most 64 are allowed"):
            namespace("label", "trainingtask", name, "one=more")


def test_the_largest_spec_can_be_applied(default: PolicyNamespace) -> None:
    """`kubectl apply` keeps a second copy in an annotation."""
    indicators = [f"{n:é>100}" for n in range(500)]
    default("apply", "-f", "-", stdin=json.dumps(make_task(dataset={**specs.TABLE["dataset"], "columns": {"text": "t", "indicators": indicators}})))  # fmt: skip
    default("delete", "trainingtask", "x")


def test_the_longest_lists_are_within_the_cost_limit(create_namespace: CreateNamespace, tmp_path: Path) -> None:
    long = [f"{n:a>100}" for n in range(100)]
    queues = [f"{n:a>63}" for n in range(100)]
    values = tmp_path / "values.yaml"
    values.write_text(
        json.dumps(
            {
                "policy": {
                    "images": {"allowedPrefixes": [f"r/{'a' * 493}{n:0>5}" for n in range(100)]},
                    "env": {"allowedNames": [f"{n:A>63}" for n in range(100)], "allowedSecrets": [f"{n:a>253}" for n in range(100)]},
                    "priorityClasses": {"allowed": long},
                    "queues": {"allowed": queues},
                }
            }
        )
    )  # fmt: skip
    namespace = create_namespace("policy-long")
    namespace.enforce(f"--values={values}")
    variables = [secret(f"{99:a>253}", f"{99 - n:A>63}") for n in range(16)]
    assert namespace.get_refusal(make_task(image=f"r/{'a' * 493}00099", env=variables, runPolicy={"priorityClassName": long[-1], "queueName": queues[-1]})) == ""  # fmt: skip
    assert "is refused: must begin with r/aaa" in namespace.get_refusal(make_task(image="a" * 500))


def test_the_cli_repeats_the_refusal(narrow: PolicyNamespace) -> None:
    with pytest.raises(Refused, match=r"spec\.runPolicy\.queueName 'team-c' is refused: allowed are team-a, team-b"):
        run(
            sys.executable, "-m", "trainingtask_cli", "submit", "--name=x", f"--namespace={narrow.namespace}",
            "--dataset=support_tickets", "--model=logistic_regression", "--set=runPolicy.queueName=team-c",
        )  # fmt: skip
