"""The sink to the container's termination message, which Kubernetes keeps: the fallback when the API server was unavailable."""

import json
import logging
from pathlib import Path
from typing import Any

from trainingtask_api.status import TrainingReport

logger = logging.getLogger(__name__)

TERMINATION_LOG = Path("/dev/termination-log")
MAX_MESSAGE_BYTES = 4096  # Kubernetes truncates longer ones, and truncated JSON cannot be parsed
# Parts of the report in the order in which they are removed: first the longest, which the model's folder has too, then
# those that spec and image have.
_REMOVABLE_PARTS = (
    "results.evaluation.perLabel",
    "results.arguments",
    "results.versions",
    "results.evaluation.undefined",
    "results.warnings",
    "sources.objects",
    "results",
    "sources",
    "trackingUrl",
)


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
    """Return the report as JSON of at most `MAX_MESSAGE_BYTES`, with as much of it as fits."""
    content = report.to_json()
    for part in _REMOVABLE_PARTS:
        if len(_encode_json(content)) <= MAX_MESSAGE_BYTES:
            break
        _remove(content, part)
    while len(_encode_json(content)) > MAX_MESSAGE_BYTES and (text := content.get("failure", {}).get("message")):
        content["failure"]["message"] = text[: len(text) * 3 // 4]
    return _encode_json(content)


def _remove(content: Any, part: str) -> None:
    """Remove a field by its path, from each item of a list."""
    name, _, rest = part.partition(".")
    for item in content if isinstance(content, list) else [content]:
        if not rest:
            item.pop(name, None)
        elif name in item:
            _remove(item[name], rest)


def _encode_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
