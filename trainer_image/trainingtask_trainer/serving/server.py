"""The process that serves a model: uvicorn, which drains before it stops."""

import signal
import socket
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from trainingtask_api.bounded_http import BoundedProtocol
from trainingtask_api.exports import Format
from trainingtask_trainer.artifacts.model_manifest import read_manifest
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.models.formats import MODEL_FILES
from trainingtask_trainer.serving.app import Readiness, create_app

# Until each node's proxy has removed a terminating pod, new connections still come to it.
_DRAIN_SECONDS: Final = 3.0


class ServingProtocol(BoundedProtocol):
    """A connection with this server's time limits."""

    request_seconds = 20.0  # 5 of keep-alive, then 10 for the body, after which there is an answer
    response_seconds = 600.0  # with the wait in the queue


class _Server(uvicorn.Server):
    """A server that after SIGTERM is not ready at once, and stops some seconds later; Ctrl-C stops it at once."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, subject: str) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._subject = subject
        self._stop_time: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop."""
        if sig == signal.SIGTERM and self._stop_time is None:
            self._readiness.is_ready = False
            self._stop_time = time.monotonic() + _DRAIN_SECONDS
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop."""
        is_drained = self._stop_time is not None and time.monotonic() >= self._stop_time
        return await super().on_tick(counter) or is_drained

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and print where."""
        await super().startup(sockets)
        if self.started:
            address, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"{self._subject} at http://{address}:{port}", file=sys.stderr, flush=True)


def serve(folder: Path, wanted: Format | None, *, host: str, port: int, name: str | None) -> None:
    """Serve a saved model until SIGTERM or Ctrl-C.

    Parameters
    ----------
    folder
        Of the model.
    wanted
        The format to read; None: as `SavedModel` chooses, in an image without torch ONNX where it is there.
    host, port
        Where to listen; port 0: a free one.
    name
        Of the model in the Open Inference Protocol; None: that of its task.

    Raises
    ------
    UserError
        When `folder` holds no saved model.
    """
    model = SavedModel(folder, wanted or _find_format_without_torch(folder))
    name = name or model.manifest.task
    readiness = Readiness()
    config = uvicorn.Config(
        create_app(model, name, readiness),
        host=host,
        port=port,
        http=ServingProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=16 << 10,  # bytes of request line and headers
        timeout_graceful_shutdown=20,
    )
    subject = f"Serving '{name}' ({len(model.manifest.labels)} labels)"
    with suppress(KeyboardInterrupt):  # which uvicorn raises again at the end
        _Server(config, readiness, subject).run()


def _find_format_without_torch(folder: Path) -> Format | None:
    if find_spec("torch") is not None:
        return None
    return next((kind for kind in MODEL_FILES if kind in read_manifest(folder).formats), None)
