"""The answers of an MLflow server that are read, with their bounds: ids become parts of addresses."""

import re
from typing import Annotated

from pydantic import BaseModel, Field

_PROXIED_ARTIFACTS = re.compile(r"mlflow-artifacts:/([\w-][\w.-]*(?:/[\w-][\w.-]*)*)")

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Metric(BaseModel):
    key: str
    step: int = 0


class _Param(BaseModel):
    key: str


class _RunInfo(BaseModel):
    run_id: _Id
    artifact_uri: str = ""


class _RunData(BaseModel):
    metrics: list[_Metric] = []
    params: list[_Param] = []


class Run(BaseModel):
    """A run as the server knows it."""

    info: _RunInfo
    data: _RunData = _RunData()

    @property
    def artifact_path(self) -> str | None:
        """The path of its artifacts below the server's own, None where the server does not store them itself."""
        match = _PROXIED_ARTIFACTS.fullmatch(self.info.artifact_uri)
        return match[1] if match else None


class ExperimentId(BaseModel):
    """An answer that names an experiment."""

    experiment_id: _Id


class Experiment(BaseModel):
    """The answer to a look-up of an experiment."""

    experiment: ExperimentId


class CreatedRun(BaseModel):
    """The answer to the creation of a run."""

    run: Run


class FoundRuns(BaseModel):
    """The answer to a search of runs."""

    runs: list[Run] = []


class Accepted(BaseModel):
    """An answer of which nothing is read."""


class Error(BaseModel):
    """The answer to a request that failed."""

    error_code: str = ""
    message: str = ""
