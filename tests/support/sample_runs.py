"""Single runs of the sample history, changed as a test needs them."""

from datetime import UTC, datetime
from typing import Any

from support.sample_history import make_sample_history
from trainingtask_history.read_models import RunDetail, RunSummary

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SAMPLE = make_sample_history(NOW)


def detail(**changes: Any) -> RunDetail:
    """Return a succeeded run."""
    return RunDetail.model_validate(SAMPLE.get_run("emotions-bert-base", 2)).model_copy(update=changes)


def summary(**changes: Any) -> RunSummary:
    """Return a running run."""
    return RunSummary.model_validate(SAMPLE.get_run("emotions-distilbert-focal")).model_copy(update=changes)
