"""A run -> its task as YAML, and the kubectl commands about it. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from trainingtask_api import TrainingTaskSpec, names
from trainingtask_history.read_models import RunDetail, RunSummary
from trainingtask_web.views.formatting import dump_yaml


def to_manifest(run: RunDetail) -> str | None:
    """Return the task as YAML that can be applied again, None for a run without a spec."""
    if run.spec is None:
        return None
    labels = {"labels": dict(sorted(run.labels.items()))} if run.labels else {}
    task = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": run.name, "namespace": run.namespace, **labels},
        "spec": _sort_by_schema(run.spec),
    }
    return dump_yaml(task, sort_keys=False, width=120)


def list_commands(run: RunSummary, *, is_active: bool) -> list[tuple[str, str]]:
    """Return titles and kubectl commands that show more of a run."""
    namespace = f"-n {shlex.quote(run.namespace)}"
    pods = f"{namespace} -l {shlex.quote(f'{names.TASK_UID_LABEL}={run.task_uid}')}"
    return [
        ("The task, with its conditions", f"kubectl describe {namespace} {shlex.quote(f'trainingtask/{run.name}')}"),
        ("Its pods", f"kubectl get pods {pods}"),
        ("The whole log", f"kubectl logs {pods} --tail=-1" + (" -f" if is_active else "")),
    ]


def _sort_by_schema(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with its fields in the order of the models: Postgres keeps no order of keys."""
    try:
        model = TrainingTaskSpec.model_validate(spec).to_json()
    except ValidationError:  # of another release
        return spec
    return _sort_like(spec, model)


def _sort_like(value: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in dict.fromkeys([*model, *value]) if key in value]
    return {
        key: _sort_like(value[key], model.get(key, {})) if isinstance(value[key], dict) else value[key] for key in keys
    }
