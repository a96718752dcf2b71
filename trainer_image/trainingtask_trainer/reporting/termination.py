"""The container's last message, which Kubernetes keeps with the pod: the backstop when the API server was away."""

import json
import logging
from pathlib import Path
from typing import Any

from trainingtask_api.status import TrainingReport

logger = logging.getLogger(__name__)

TERMINATION_LOG = Path("/dev/termination-log")
MAX_MESSAGE_BYTES = 4096  # bytes; Kubernetes cuts what is longer, and cut JSON is no JSON
# Parts of the results in the order in which they are given up: the longest first, which stands in the model's folder as
# well; then what the spec and the image can tell.
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
    """Return the report as JSON of at most `MAX_MESSAGE_BYTES` bytes: a `TrainingReport` still, with its results as far as they fit."""
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
