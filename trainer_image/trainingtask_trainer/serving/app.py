"""The HTTP application: predictions, health and metrics of one model."""

import asyncio
import email.message
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.errors import TrainerError
from trainingtask_trainer.serving import metrics
from trainingtask_trainer.serving.batching import Batcher, QueueFullError
from trainingtask_trainer.serving.payloads import (
    InferRequest,
    PredictRequest,
    RequestError,
    Result,
    describe_model,
    encode_infer_response,
    encode_predictions,
    parse_body,
)

MAX_BODY_BYTES = 1 << 20
MAX_REQUESTS = 128  # for predictions, at once: their bodies and answers are in memory
MAX_UNREAD_BYTES = 256 << 20  # of answers; one of 64 texts and 10,000 labels has 25 MB
_MAX_QUICK_VALUES = 10_000  # of an answer, in a millisecond or two
_BODY_SECONDS = 10.0
_RETRY_SECONDS = "1"
_CLIENT_GONE = 499  # as nginx logs it


@dataclass
class Readiness:
    """Whether the server takes new requests."""

    is_ready: bool = True


def create_app(model: SavedModel, name: str, readiness: Readiness) -> Starlette:
    """Return the application that serves a model under a name of the Open Inference Protocol."""
    service = _Service(model, name, readiness)
    counted = [Middleware(service.count)]
    routes = [
        Route("/predict", service.measure(service.predict), methods=["POST"], middleware=counted),
        Route("/healthz", service.show_health),
        Route("/metrics", _show_metrics),
        Route("/v2", service.show_server),
        Route("/v2/health/live", service.show_live),
        Route("/v2/health/ready", service.show_ready),
        Route("/v2/models/{name}", service.show_model),
        Route("/v2/models/{name}/ready", service.show_model_ready),
        Route("/v2/models/{name}/infer", service.measure(service.infer), methods=["POST"], middleware=counted),
    ]
    handlers: Any = {HTTPException: _refuse_route, Exception: _report_defect}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.run)


class _Service:
    """The endpoints."""

    def __init__(self, model: SavedModel, name: str, readiness: Readiness) -> None:
        self._model = model
        self._name = name
        self._readiness = readiness
        self._batcher = Batcher(self._predict_texts)
        self._task: asyncio.Task[None] | None = None
        self._requests = 0
        self._unread_bytes = 0
        self._thread = ThreadPoolExecutor(1, "encode")

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[None]:
        """Predict while entered."""
        self._task = asyncio.create_task(self._batcher.run())
        yield
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def predict(self, request: Request) -> Response:
        """Return the labels of texts or rows."""
        body = parse_body(PredictRequest, await _read_body(request))
        results = await self._wait_for_results(request, body.read_texts(self._model.manifest.text_columns))
        return await self._encode(results, lambda: encode_predictions(results))

    async def infer(self, request: Request) -> Response:
        """Return the tensors of the Open Inference Protocol."""
        self._check_name(request)
        body = parse_body(InferRequest, await _read_body(request))
        results = await self._wait_for_results(request, body.read_texts(self._model.manifest.text_columns))
        labels = self._model.manifest.labels
        return await self._encode(results, lambda: encode_infer_response(self._name, labels, body, results))

    async def show_server(self, request: Request) -> JSONResponse:
        """Return the metadata of the server."""
        return JSONResponse({"name": "trainingtask-serve", "version": version("trainingtask"), "extensions": []})

    async def show_model(self, request: Request) -> JSONResponse:
        """Return the metadata of the model."""
        self._check_name(request)
        manifest = self._model.manifest
        return JSONResponse(describe_model(self._name, manifest.model, len(manifest.labels), manifest.text_columns))

    async def show_health(self, request: Request) -> JSONResponse:
        """Return whether the process works: for liveness probes."""
        is_live = self._task is not None and not self._task.done()
        return JSONResponse({"live": is_live}, 200 if is_live else 500)

    async def show_live(self, request: Request) -> JSONResponse:
        """Return the same under the protocol's path."""
        return await self.show_health(request)

    async def show_ready(self, request: Request) -> JSONResponse:
        """Return whether the server takes new requests: for readiness probes."""
        is_ready = self._readiness.is_ready
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def show_model_ready(self, request: Request) -> JSONResponse:
        """Return the same of the model."""
        self._check_name(request)
        is_ready = self._readiness.is_ready
        return JSONResponse({"name": self._name, "ready": is_ready}, 200 if is_ready else 503)

    def count(self, app: ASGIApp) -> ASGIApp:
        """Return an application whose requests count until their client has read the answer."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_wait(message: Message) -> None:
                size = len(message.get("body", b""))
                self._unread_bytes += size
                try:
                    if size:  # only the next part waits for the client
                        await send({**message, "more_body": True})
                        message = {**message, "body": b""}
                    await send(message)
                finally:
                    self._unread_bytes -= size

            self._requests += 1
            try:
                await app(scope, receive, send_and_wait)
            finally:
                self._requests -= 1

        return counted

    def measure(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint for predictions with its errors as responses, in the metrics."""

        async def measured(request: Request) -> Response:
            start = time.perf_counter()
            response = await self._respond(endpoint, request)
            if not self._readiness.is_ready:  # its client's next request is for another pod
                response.headers["Connection"] = "close"
            path = "/predict" if request.url.path == "/predict" else "/v2/models/NAME/infer"
            metrics.REQUESTS.labels(path, str(response.status_code)).inc()
            metrics.REQUEST_SECONDS.observe(time.perf_counter() - start)
            return response

        return measured

    async def _respond(self, endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        try:
            if self._requests > MAX_REQUESTS:
                raise QueueFullError
            return await endpoint(request)
        except QueueFullError:
            return _to_error(503, "too many requests wait: try again later", {"Retry-After": _RETRY_SECONDS})
        except RequestError as error:
            return _to_error(error.status, error.message)
        except TrainerError as error:
            return _to_error(500, error.message)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)

    async def _wait_for_results(self, request: Request, texts: Sequence[str]) -> list[Result]:
        """Return the results of texts; drop them when the client disconnects."""
        results = asyncio.ensure_future(self._batcher.predict(texts))
        disconnect = asyncio.ensure_future(request.receive())  # after the body there is nothing else to receive
        try:
            await asyncio.wait([results, disconnect], return_when=asyncio.FIRST_COMPLETED)
            if not results.done():
                raise ClientDisconnect
            return results.result()
        finally:
            results.cancel()
            disconnect.cancel()

    async def _encode(self, results: Sequence[Result], encode: Callable[[], bytes]) -> Response:
        """Return an answer; a large one is made in a thread, so that others do not wait for it."""
        if len(results) * len(self._model.manifest.labels) <= _MAX_QUICK_VALUES:
            content = encode()
        else:
            content = await asyncio.get_running_loop().run_in_executor(self._thread, encode)
            if self._unread_bytes > MAX_UNREAD_BYTES:
                raise QueueFullError
        return Response(content, media_type="application/json")

    def _predict_texts(self, texts: Sequence[str]) -> list[Result]:
        probabilities = self._model.predict_probabilities(texts)
        predictions = self._model.choose_labels(texts, probabilities)
        metrics.TEXTS.inc(len(texts))
        return [Result(prediction, row) for prediction, row in zip(predictions, probabilities, strict=True)]

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] != self._name:
            raise HTTPException(404, f"there is no such model, only '{self._name}'")


async def _read_body(request: Request) -> bytes:
    """Return the body of a request, of at most `MAX_BODY_BYTES`."""
    charset = _get_charset(request)
    if charset not in (None, "utf-8", "utf8", "us-ascii"):
        raise RequestError(400, f"the charset '{charset}' is refused: send JSON as UTF-8")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RequestError(
                        413, f"the body has more than {MAX_BODY_BYTES} bytes: send fewer texts at a time"
                    )
    except TimeoutError as error:
        raise RequestError(408, f"the body did not arrive in {_BODY_SECONDS:.0f} seconds") from error
    return bytes(body)


def _get_charset(request: Request) -> str | None:
    header = email.message.Message()
    header["Content-Type"] = request.headers.get("content-type", "application/json")
    charset = header.get_content_charset()
    return charset[:40] if charset else None


def _to_error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


async def _show_metrics(request: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _refuse_route(request: Request, error: HTTPException) -> JSONResponse:
    return _to_error(error.status_code, error.detail, dict(error.headers or {}))


async def _report_defect(request: Request, error: Exception) -> JSONResponse:
    return _to_error(500, "the server failed; its log has the cause")
