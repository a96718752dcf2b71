"""A run as a manifest and as kubectl commands."""

from typing import Any

import yaml

from support.sample_runs import detail, summary
from trainingtask_api import TrainingTask, names
from trainingtask_web.routes import pages
from trainingtask_web.views.manifest import list_commands, to_manifest


def test_the_manifest_is_a_valid_task() -> None:
    written = to_manifest(detail(labels={"note": "a: b # c", "emoji": "🦜"}))
    assert written is not None
    task = TrainingTask.model_validate(yaml.safe_load(written))
    assert task.metadata.name == "emotions-bert-base"
    assert task.metadata.namespace == "ml-team"
    assert task.metadata.labels == {"note": "a: b # c", "emoji": "🦜"}
    assert task.spec.model.name == "bert"
    assert to_manifest(detail(spec=None)) is None


def shuffled(spec: dict[str, Any] | None) -> dict[str, Any]:
    return {key: shuffled(value) if isinstance(value, dict) else value for key, value in reversed((spec or {}).items())}


def test_the_manifest_has_the_field_order_of_the_schema() -> None:
    run = detail()
    assert list(yaml.safe_load(to_manifest(run) or "")["spec"])[:3] == ["dataset", "preprocessor", "model"]
    assert to_manifest(detail(spec=shuffled(run.spec), labels=shuffled(run.labels))) == to_manifest(run)


def test_a_spec_with_snake_case_fields_is_unchanged() -> None:
    written = {"model": {"name": "knn"}, "run_policy": {"suspend": True}, "dataset": {"name": "support_tickets"}}
    assert yaml.safe_load(to_manifest(detail(spec=written)) or "")["spec"] == written


def test_a_spec_of_another_release_is_unchanged() -> None:
    later = {"model": {"name": "bert", "layers": 3}, "dataset": {"name": "table"}}
    assert yaml.safe_load(to_manifest(detail(spec=later)) or "")["spec"] == later


def test_the_first_task_is_valid() -> None:
    assert TrainingTask.model_validate(yaml.safe_load(pages.FIRST_TASK)).spec.output is None


def test_commands_are_quoted_for_the_shell() -> None:
    run = detail(name="a b; rm -rf /", namespace="$(id)", task_uid="u")
    lines = [line for _, line in list_commands(run, is_active=False)]
    assert lines == [
        "kubectl describe -n '$(id)' 'trainingtask/a b; rm -rf /'",
        f"kubectl get pods -n '$(id)' -l {names.TASK_UID_LABEL}=u",
        f"kubectl logs -n '$(id)' -l {names.TASK_UID_LABEL}=u --tail=-1",
    ]


def test_the_logs_command_follows_an_active_run() -> None:
    assert list_commands(summary(), is_active=True)[-1][1].endswith(" --tail=-1 -f")
