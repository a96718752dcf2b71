"""The sink to a file in the pod's shared folder, from which the launcher continues the report when a worker fails."""

import json
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from trainingtask_api.status import TrainingReport
from trainingtask_trainer.reporting.kube_status import shorten_report

_MAX_BYTES = 2**20

logger = logging.getLogger(__name__)


class ReportFile:
    """Keeps the newest report in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "report.json"

    def send(self, report: TrainingReport) -> None:
        """Replace the report in the file."""
        partial = self._path.with_suffix(".tmp")
        try:
            partial.write_text(json.dumps(shorten_report(report).to_json()), encoding="utf-8")
            os.replace(partial, self._path)
        except OSError as error:
            logger.warning("The launcher does not get the report: %s", error)

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Replace the report in the file."""
        del timeout
        self.send(report)

    def wait(self) -> None:
        """Return at once: `finish` has written."""

    def read(self) -> TrainingReport | None:
        """Return the newest report, None without a valid one: the code of the task may write here too."""
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return None
            return TrainingReport.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None
