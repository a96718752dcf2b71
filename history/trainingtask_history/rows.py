"""Builds the row of a run from its task, for the trainer and for the operator alike."""

from datetime import datetime
from typing import Any

from trainingtask_api.formatting import remove_query
from trainingtask_api.status import Results
from trainingtask_api.task import TrainingTask
from trainingtask_history.tables import RunStatus, TrainingRun, run_id


def build_run(
    task: TrainingTask,
    *,
    task_uid: str,
    attempt: int,
    status: RunStatus,
    create_time: datetime | None,
    start_time: datetime | None,
    finish_time: datetime | None,
    results: Results | None,
    **columns: Any,
) -> TrainingRun:
    """Return the row of an attempt.

    Parameters
    ----------
    task, task_uid
        The task, and its uid, which a run without a cluster makes up.
    attempt, status
        Number of the attempt, of which the first is 1, and its state.
    create_time, start_time, finish_time
        When the task was created, and when the attempt started and ended; a `finish_time` makes the row final.
    results
        What a finished training reported.
    columns
        The columns that are known to one of the writers only.
    """
    return TrainingRun(
        id=run_id(task_uid, attempt),
        task_uid=task_uid,
        namespace=task.metadata.namespace,
        name=task.metadata.name,
        attempt=attempt,
        dataset=task.spec.dataset.name,
        model=task.spec.model.name,
        device=task.spec.device.value,
        status=status.value,
        create_time=create_time,
        start_time=start_time,
        finish_time=finish_time,
        total_time=(finish_time - start_time).total_seconds() if finish_time and start_time else None,
        spec=_remove_queries(task.spec.to_json()),
        **(build_result_columns(results) if results else {}),
        **columns,
    )


def _remove_queries(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec without what signs its addresses: more people read rows than tasks, and for longer."""
    return {
        name: section | {"uri": remove_query(section["uri"])}
        if isinstance(section, dict) and "uri" in section
        else section
        for name, section in spec.items()
    }


def build_result_columns(results: Results) -> dict[str, Any]:
    """Return the columns of a row that hold results; the JSON columns have snake_case keys, as SQL does."""
    training = results.model_dump(mode="json", exclude_none=True)
    arguments, evaluation = training.pop("arguments"), training.pop("evaluation")
    score = results.evaluation.micro.f1
    return {
        "training_args": arguments,
        "training_result": training,
        "evaluate_result": evaluation,
        # A trainer may report any number: one that the column's CHECK refuses would keep the whole row away.
        "score": score if score is not None and 0 <= score <= 1 else None,
    }
