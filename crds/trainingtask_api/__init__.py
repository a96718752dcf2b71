"""The contract of TrainingTask: what a user writes, what a user reads, and the record that stays.

Everybody imports this package; it imports nobody (pydantic and sqlmodel only, Alembic for the history's migrations).
"""

from trainingtask_api.dataset import Dataset, HubSource, TableColumns
from trainingtask_api.spec import (
    Device,
    EnvironmentSecret,
    Evaluation,
    Model,
    Output,
    Preprocessor,
    Resources,
    RunPolicy,
    SecretKey,
    Strategy,
    Training,
    TrainingTaskSpec,
)
from trainingtask_api.status import (
    Averages,
    Baseline,
    Condition,
    EvaluationResult,
    ExitCode,
    Failure,
    Phase,
    Results,
    TrainingReport,
    TrainingTaskStatus,
)
from trainingtask_api.task import Metadata, TrainingTask, describe_errors

__all__ = [
    "Averages",
    "Baseline",
    "Condition",
    "Dataset",
    "Device",
    "EnvironmentSecret",
    "Evaluation",
    "EvaluationResult",
    "ExitCode",
    "Failure",
    "HubSource",
    "Metadata",
    "Model",
    "Output",
    "Phase",
    "Preprocessor",
    "Resources",
    "Results",
    "RunPolicy",
    "SecretKey",
    "Strategy",
    "TableColumns",
    "Training",
    "TrainingReport",
    "TrainingTask",
    "TrainingTaskSpec",
    "TrainingTaskStatus",
    "describe_errors",
]
