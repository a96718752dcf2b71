"""Clients of a served model that send incomplete requests or read no answer: their connections end, others are served."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from pydantic_core import to_json

from support.kubectl import eventually
from support.served_models import run_model_server, write_held_model
from trainingtask_trainer.artifacts.saved_model import Prediction
from trainingtask_trainer.serving import app, payloads
from trainingtask_trainer.serving.server import ServingProtocol


def test_silent_connections_displace_no_probe(tmp_path: Path) -> None:
    model = write_held_model(tmp_path)
    with run_model_server(str(model.folder), f"--code-dir={model.code}") as server, contextlib.ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        connections = []
        for _ in range(ServingProtocol.max_connections + 10):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
            connections.append(connection)
        assert server.client.get("/healthz").status_code == 200
        for connection in connections[:10]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_a_late_body_is_answered_before_its_connection_ends() -> None:
    assert ServingProtocol.request_seconds > 5 + app._BODY_SECONDS
    assert ServingProtocol.stalled_seconds <= ServingProtocol.request_seconds < ServingProtocol.response_seconds


LARGE = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [128], "data": ["a"] * 128}]}


class WideModel:
    """A model whose answers are larger than the buffers of a connection."""

    manifest = SimpleNamespace(labels=[f"label {number}" for number in range(1000)], text_columns=(), model="wide")

    def predict_probabilities(self, texts: Sequence[str]) -> Any:
        return np.full((len(texts), 1000), 1 / 3)

    def choose_labels(self, texts: Sequence[str], probabilities: Any) -> list[Prediction]:
        return [Prediction(text, {}) for text in texts]


@contextlib.contextmanager
def serve(**limits: float) -> Iterator[int]:
    """Serve a wide model; yield the port."""
    http = type("Short", (ServingProtocol,), {**limits, "_waiting_for_client": {}})
    application = app.create_app(WideModel(), "wide", app.Readiness())  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(application, http=http, log_config=None, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@contextlib.contextmanager
def open_slow_reader(port: int) -> Iterator[socket.socket]:
    """Have an answer of 2 MB begin."""
    body = json.dumps(LARGE).encode()
    header = (
        f"POST /v2/models/wide/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))
        connection.sendall(header.encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def predict(port: int) -> int:
    return httpx.post(f"http://127.0.0.1:{port}/predict", json={"texts": ["a"]}, timeout=60).status_code


def test_a_request_counts_until_its_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_REQUESTS", 1)
    with serve(stalled_seconds=600.0) as port, open_slow_reader(port) as reader:
        assert predict(port) == 503
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).status_code == 200
        answer = b""
        while part := reader.recv(1 << 16):
            answer += part
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"]) == 128_000
        eventually("the answer was read", lambda: predict(port) == 200)


def test_unread_answers_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_UNREAD_BYTES", 1_000_000)
    with serve(stalled_seconds=600.0) as port, open_slow_reader(port):
        assert read_large_answer(port) == {"error": "too many requests wait: try again later"}
        assert predict(port) == 200


def test_a_client_that_does_not_read_is_displaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_REQUESTS", 1)
    with serve(stalled_seconds=0.1) as port, open_slow_reader(port):
        eventually("its connection has ended", lambda: predict(port) == 200)


def read_large_answer(port: int) -> Any:
    return httpx.post(f"http://127.0.0.1:{port}/v2/models/wide/infer", json=LARGE, timeout=60).json()


def test_a_large_answer_holds_up_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, probed = threading.Event(), threading.Event()
    sizes: list[int] = []

    def encode(value: Any) -> bytes:
        begun.set()
        assert probed.wait(60)
        sizes.append(len(value))
        return to_json(value)

    monkeypatch.setattr(payloads, "to_json", encode)
    with serve() as port, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_large_answer, port)
        assert begun.wait(60)
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=120).status_code == 200
        finally:
            probed.set()
        assert len(reading.result()["outputs"][0]["data"]) == 128_000
    assert max(sizes) == 1000  # one text's, as the encoder stops all threads
