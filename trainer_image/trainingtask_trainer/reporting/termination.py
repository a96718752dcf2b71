"""The sink to the container's termination message, which Kubernetes keeps: the fallback when the API server was unavailable."""

import json
import logging
from pathlib import Path
from typing import Any

from trainingtask_api.status import TrainingReport

logger = logging.getLogger(__name__)

TERMINATION_LOG = Path("/dev/termination-log")
MAX_MESSAGE_BYTES = 4096  # Kubernetes truncates longer ones, and truncated JSON cannot be parsed
# Parts of the results in the order in which they are removed: the longest first, which the model's folder has too; then
# those that spec and image have.
_REMOVABLE_PARTS = ("evaluation.perLabel", "arguments", "versions", "evaluation.undefined", "warnings")


class TerminationSink:
    """Writes the last report into the termination log, where there is one."""

    def __init__(self, path: Path = TERMINATION_LOG) -> None:
        self._path = path

    def send(self, report: TrainingReport) -> None:
        """Do nothing: only the last report counts."""

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Write the report."""
        del timeout
        if not self._path.exists():
            return
        try:
            self._path.write_bytes(encode_message(report))
        except OSError as error:
            logger.warning("The termination message could not be written: %s", error)

    def wait(self) -> None:
        """Do nothing: `finish` has written."""


def encode_message(report: TrainingReport) -> bytes:
    """Return the report as JSON of at most `MAX_MESSAGE_BYTES`, with as much of its results as fits."""
    content = report.to_json()
    results = content.get("results", {})
    for part in _REMOVABLE_PARTS:
        if len(_encode_json(content)) <= MAX_MESSAGE_BYTES:
            break
        *section, name = part.split(".")
        (results.get(section[0], {}) if section else results).pop(name, None)
    if len(_encode_json(content)) > MAX_MESSAGE_BYTES:
        content.pop("results", None)
    while len(_encode_json(content)) > MAX_MESSAGE_BYTES:
        text = content["failure"]["message"]
        content["failure"]["message"] = text[: len(text) * 3 // 4]
    return _encode_json(content)


def _encode_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
