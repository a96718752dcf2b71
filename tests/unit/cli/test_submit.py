from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from support import specs
from trainingtask_cli.errors import CommandError, UsageError
from trainingtask_cli.submit import build_manifest, build_retry, dump_manifest, find_free_name, read_manifest

CLASSICAL = {"dataset.name": "support_tickets", "model.name": "logistic_regression"}
TRANSFORMER = {"dataset.name": "go_emotions", "model.name": "distilbert"}


def test_flags_become_a_manifest_without_defaults() -> None:
    fields = {
        **TRANSFORMER,
        "model.checkpoint": None,
        "device": "gpu",
        "training.epochs": 3,
        "training.learningRate": 5e-5,
    }
    assert build_manifest(None, name="a", fields=fields) == {
        "apiVersion": "trainingtask.dev/v1alpha1",
        "kind": "TrainingTask",
        "metadata": {"name": "a"},
        "spec": {
            "dataset": {"name": "go_emotions"},
            "model": {"name": "distilbert"},
            "training": {"epochs": 3, "learningRate": 5e-5},
            "device": "gpu",
        },
    }


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.seed=7", "training.seed", 7),
        ("spec.training.seed=7", "training.seed", 7),
        ("runPolicy.suspend=true", "runPolicy.suspend", True),
        ("training.learningRate=5e-5", "training.learningRate", 5e-5),
        ("model.revision=2024-01-01", "model.revision", "2024-01-01"),
        ("model.revision=1e5", "model.revision", "1e5"),
        ("resources.cpu=2", "resources.cpu", "2"),
        ("image=registry.example.com/a:1.0", "image", "registry.example.com/a:1.0"),
        ("env=[{name: A, secretKeyRef: {name: b, key: c}}]", "env", [{"name": "A", "secretKeyRef": {"name": "b", "key": "c"}}]),
        ("output={volumeClaim: models}", "output", {"volumeClaim": "models"}),
    ],
)  # fmt: skip
def test_any_field_can_be_set(setting: str, path: str, value: object) -> None:
    found: Any = build_manifest(None, name="a", fields=TRANSFORMER, settings=[setting])["spec"]
    for part in path.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("fields", "settings", "sentence"),
    [
        (CLASSICAL | {"training.epochs": 3}, [], "training.epochs is for transformers"),
        (TRANSFORMER | {"training.epochs": 0}, [], "spec.training.epochs: 0 is refused"),
        (TRANSFORMER, ["training.epoch=3"], "spec.training.epoch: "),
        (TRANSFORMER, ["training.epochs=many"], "spec.training.epochs: 'many' is refused"),
        ({"dataset.name": "go_emotions"}, [], "spec.model: Field required"),
        (TRANSFORMER, ["training=[1]"], "spec.training: "),
    ],
)
def test_invalid_fields_are_named(fields: dict, settings: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match="no valid TrainingTask") as refused:
        build_manifest(None, name="a", fields=fields, settings=settings)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a" * 64, "a b"])
def test_a_name_must_be_one_of_kubernetes(name: str) -> None:
    with pytest.raises(CommandError, match="name: "):
        build_manifest(None, name=name, fields=CLASSICAL)


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        (None, "training.seed=7", "add --name"),
        ("a", "training.seed", "expected path.to.field=value"),
        ("a", "=7", "expected path.to.field=value"),
        ("a", "device.kind=x", "device.kind cannot be set: 'cpu' has no fields"),
        ("a", "env=[", "the value is no YAML"),
    ],
)
def test_malformed_settings_are_usage_errors(name: str | None, setting: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build_manifest(None, name=name, fields=CLASSICAL | {"device": "cpu"}, settings=[setting])


def test_flags_override_a_file() -> None:
    written = specs.task("a", specs.changed(specs.TRANSFORMER, training={"epochs": 3, "seed": 7}), "team-a")
    exported = {
        **written,
        "metadata": {
            **written["metadata"],
            "labels": {"team": "a"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "mine"},
            "uid": "1",
            "resourceVersion": "3",
        },
        "status": {"state": "Failed", "of": "a later release"},
    }
    base = read_manifest(yaml.safe_dump(exported), "it")
    made = build_manifest(base, name="b", fields={"training.epochs": 4})
    assert made["metadata"] == {
        "name": "b",
        "namespace": "team-a",
        "labels": {"team": "a"},
        "annotations": {"note": "mine"},
    }
    assert made["spec"]["training"] == {"epochs": 4, "seed": 7}
    assert base["spec"]["training"]["epochs"] == 3
    assert yaml.safe_load(dump_manifest(made)) == made


def test_file_and_flag_must_not_name_different_namespaces() -> None:
    with pytest.raises(UsageError, match=r"'team-a'.*'team-b'"):
        build_manifest(specs.task("a", specs.CLASSICAL, "team-a"), namespace="team-b")


def test_a_file_with_invalid_metadata_is_refused() -> None:
    with pytest.raises(CommandError, match="metadata: expected a mapping with a name"):
        build_manifest({"kind": "TrainingTask", "metadata": ["a"]})
    with pytest.raises(CommandError, match=r"metadata\.annotations: expected a mapping"):
        build_manifest({"kind": "TrainingTask", "metadata": {"name": "a", "annotations": ["b"]}})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML"),
        ("day: 2026-02-30", "has a date or a number that is none (day is out of range for month): quote it"),
        ("", "holds: nothing"),
        ("kind: Pod", "holds: Pod"),
        ("- 1", "holds: None"),
        (
            "kind: TrainingTask\n---\nkind: PersistentVolumeClaim",
            "TrainingTask, PersistentVolumeClaim. `kubectl apply -f`",
        ),
    ],
)
def test_a_file_must_hold_one_task(text: str, sentence: str) -> None:
    with pytest.raises(CommandError) as refused:
        read_manifest(text, "task.yaml")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("spec", specs.GOOD.values(), ids=specs.GOOD)
def test_every_valid_spec_is_unchanged(spec: dict[str, Any]) -> None:
    assert build_manifest(specs.task("a", spec))["spec"] == spec


@pytest.mark.parametrize(
    ("name", "taken", "new"),
    [
        ("a", [], "a-2"),
        ("a", ["a-2", "a-3"], "a-4"),
        ("a-2", [], "a-3"),
        ("run-2024", [], "run-2024-2"),
        ("x" * 63, [], "x" * 61 + "-2"),
        ("x" * 60 + "-yz", [], "x" * 60 + "-2"),
        ("a-99", ["a-100"], "a-101"),
    ],
)
def test_a_retry_has_the_next_free_name(name: str, taken: list[str], new: str) -> None:
    assert find_free_name(name, taken) == new


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", fullmatch=True), st.integers(0, 30))
def test_a_retry_of_any_task_has_a_valid_name(name: str, count: int) -> None:
    taken = {name}
    for _ in range(count):
        taken.add(find_free_name(name, taken))
    assert len(taken) == count + 1
    for new in taken:
        assert len(new) <= 63
        assert build_manifest(None, name=new, fields=CLASSICAL)["metadata"]["name"] == new


def test_a_retry_copies_the_spec_alone(make: SimpleNamespace) -> None:
    task = make.task("a", "Failed")
    retried = build_retry(task, "a-2")
    assert retried == specs.task("a-2", task["spec"], "team-a")
