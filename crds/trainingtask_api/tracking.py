"""The `spec.tracking`: the experiment trackers that a training is reported to, beside the history."""

from typing import Annotated

from pydantic import Field

from trainingtask_api.fields import match_pattern
from trainingtask_api.rules import Contract

MLflowUri = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    match_pattern(
        r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        "must be the address of an MLflow server, such as 'https://mlflow.example.com', without a user and password",
    ),
]
MLflowExperiment = Annotated[str, Field(min_length=1, max_length=250)]


class MLflowTracking(Contract):
    """A run on an MLflow server; its credentials come from `spec.env` (MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD)."""

    uri: MLflowUri | None = Field(
        None,
        description="Address of the MLflow server; another one than the operator's gets none of the operator's credentials. Default: the operator's setting.",
    )
    experiment: MLflowExperiment | None = Field(
        None,
        description="Experiment, created if it is not there yet. Default: the operator's setting, else the task's namespace.",
    )


class Tracking(Contract):
    """Experiment trackers."""

    mlflow: MLflowTracking | None = Field(None, description="MLflow.")
