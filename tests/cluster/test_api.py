"""The CRD's schema and rules on a real API server."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from support import dry_run, specs
from support.kubectl import Kubectl, Refused

GetRefusal = Callable[[str, dict[str, Any]], str]


@pytest.fixture(scope="module")
def get_refusal(kubectl: Kubectl) -> Iterator[GetRefusal]:
    """Yield a function that returns with which message a task of a name and a spec is refused, "" if it is accepted."""
    with dry_run.connect() as api_server:
        yield lambda name, spec: api_server.get_refusal(specs.task(name, spec, kubectl.namespace))


@pytest.mark.parametrize("name", specs.GOOD)
def test_good_specs_are_accepted(get_refusal: GetRefusal, name: str) -> None:
    assert get_refusal(name, specs.GOOD[name]) == ""


@pytest.mark.parametrize("name", specs.BAD)
def test_bad_specs_are_refused_by_the_api_server_with_the_field(get_refusal: GetRefusal, name: str) -> None:
    spec, sentence = specs.BAD[name]
    assert sentence in get_refusal(name, spec)


def test_a_refused_value_is_repeated(get_refusal: GetRefusal) -> None:
    for path, value in (("dataset__path", "../other"), ("resources__memory", "4096"), ("resources__storage", "20")):
        assert f"'{value}' is refused: must be" in get_refusal("x", specs.changed(specs.TABLE, **{path: value}))


def test_kubectl_prints_the_refusal(kubectl: Kubectl) -> None:
    task = specs.task("x", specs.changed(specs.TABLE, dataset__path="../other"), kubectl.namespace)
    with pytest.raises(Refused, match=r"'\.\./other' is refused: must be"):
        kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(task))


def test_a_long_name_and_an_unknown_field_are_refused(get_refusal: GetRefusal) -> None:
    assert "at most 63 characters" in get_refusal("n" * 64, specs.CLASSICAL)
    unknown = get_refusal("x", specs.changed(specs.TRANSFORMER, training__epoch=3))
    assert re.search(r"unknown field .*epoch", unknown)


CHANGED_FIELDS = {
    "dataset": {"dataset": {"seed": 7}},
    "model": {"model": {"strategy": "multi_output"}},
    "training": {"training": {"seed": 7}},
    "device": {"device": "gpu"},
    "evaluation": {"evaluation": {"threshold": 0.5}},
    "image": {"image": "another:1"},
    "output": {"output": {"volumeClaim": "x"}},
    "resources": {"resources": {"cpu": 2}},
    "preprocessor": {"preprocessor": {"ngramMax": 3}},
    "env": {"env": [{"name": "A", "secretKeyRef": {"name": "a", "key": "b"}}]},
    "runPolicy": {"runPolicy": {"retries": 5}},
}


@pytest.fixture(scope="module")
def suspended_task(kubectl: Kubectl) -> str:
    """Apply a suspended task; return its name."""
    kubectl.apply(specs.task("fixed", specs.changed(specs.CLASSICAL, runPolicy__suspend=True), kubectl.namespace))
    return "fixed"


def patch_spec(kubectl: Kubectl, task: str, spec: dict[str, object]) -> None:
    """Patch the spec of a task by a dry run on the server."""
    patch = json.dumps({"spec": spec})
    kubectl("patch", "trainingtask", task, "--type=merge", "--patch", patch, "--dry-run=server")


@pytest.mark.parametrize("part", CHANGED_FIELDS)
def test_an_immutable_field_cannot_be_changed(kubectl: Kubectl, suspended_task: str, part: str) -> None:
    with pytest.raises(Refused, match="create a new TrainingTask instead"):
        patch_spec(kubectl, suspended_task, CHANGED_FIELDS[part])


def test_every_immutable_field_of_a_change_is_named(kubectl: Kubectl, suspended_task: str) -> None:
    spec = CHANGED_FIELDS["device"] | CHANGED_FIELDS["training"] | CHANGED_FIELDS["runPolicy"]
    with pytest.raises(Refused) as refused:
        patch_spec(kubectl, suspended_task, spec)
    for part in ("spec.training", "spec.device", "of spec.runPolicy only suspend, ttlSecondsAfterFinished, deleteTask"):
        assert f"{part} can" in str(refused.value)
    assert "spec.dataset" not in str(refused.value)


@pytest.mark.parametrize("policy", [{"suspend": False}, {"ttlSecondsAfterFinished": 60, "deleteTask": True}])
def test_suspend_and_ttl_may_change(kubectl: Kubectl, suspended_task: str, policy: dict[str, object]) -> None:
    patch_spec(kubectl, suspended_task, {"runPolicy": policy})


def test_every_section_is_explained(kubectl: Kubectl) -> None:
    for section in ("dataset", "preprocessor", "model", "training", "evaluation", "resources", "output", "runPolicy"):
        assert "DESCRIPTION" in kubectl("explain", f"tt.spec.{section}")
    assert "Pretrained weights" in kubectl("explain", "tt.spec.model.checkpoint")


def test_the_operator_cannot_read_secrets_or_delete_tasks_elsewhere(system: Kubectl) -> None:
    account = f"--as=system:serviceaccount:{system.namespace}:trainingtask-operator"
    rules = system("auth", "can-i", "--list", account, "--namespace=default")
    assert "secrets" not in rules
    for verb, kind in (
        ("delete", "trainingtasks"),
        ("create", "pods"),
        ("delete", "pods"),
        ("update", "trainingtasks"),
        ("create", "pods/exec"),
    ):
        with pytest.raises(Refused):
            system("auth", "can-i", verb, kind, account, "--namespace=default")


def test_the_namespaces_are_restricted(system: Kubectl, kubectl: Kubectl) -> None:
    for namespace in (system.namespace, kubectl.namespace):
        labels = yaml.safe_load(system("get", "namespace", namespace, "--output=yaml"))["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
