"""The contract of TrainingTask: its spec, status, conditions and reasons, and the CRD that is generated from them.

It imports pydantic alone: every other package builds on it.
"""

from trainingtask_api.dataset import Dataset, HubSource, TableColumns
from trainingtask_api.model import Model, Preprocessor, Strategy
from trainingtask_api.reasons import Reason
from trainingtask_api.run_policy import RunPolicy
from trainingtask_api.scores import Averages, Baseline, EvaluationResult, LabelScore, ValidationScores
from trainingtask_api.spec import (
    Code,
    Device,
    EnvironmentSecret,
    Output,
    Resources,
    SecretKey,
    TrainingTaskSpec,
)
from trainingtask_api.status import (
    AttemptRecord,
    Condition,
    ExitCode,
    Failure,
    Phase,
    Results,
    TrainingReport,
    TrainingTaskStatus,
)
from trainingtask_api.task import Metadata, TrainingTask, describe_errors
from trainingtask_api.training import (
    Batching,
    Evaluation,
    Loop,
    Loss,
    PosWeight,
    Precision,
    Scheduler,
    ThresholdTuning,
    Training,
)

__all__ = [
    "AttemptRecord",
    "Averages",
    "Baseline",
    "Batching",
    "Code",
    "Condition",
    "Dataset",
    "Device",
    "EnvironmentSecret",
    "Evaluation",
    "EvaluationResult",
    "ExitCode",
    "Failure",
    "HubSource",
    "LabelScore",
    "Loop",
    "Loss",
    "Metadata",
    "Model",
    "Output",
    "Phase",
    "PosWeight",
    "Precision",
    "Preprocessor",
    "Reason",
    "Resources",
    "Results",
    "RunPolicy",
    "Scheduler",
    "SecretKey",
    "Strategy",
    "TableColumns",
    "ThresholdTuning",
    "Training",
    "TrainingReport",
    "TrainingTask",
    "TrainingTaskSpec",
    "TrainingTaskStatus",
    "ValidationScores",
    "describe_errors",
]
