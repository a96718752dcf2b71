"""Clients of a served model that send incomplete requests: their connections end, and probes are answered."""

import contextlib
import socket
from pathlib import Path

from support.served_models import run_model_server, write_held_model
from trainingtask_trainer.serving import app
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
