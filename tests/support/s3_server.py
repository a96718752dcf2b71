"""An S3 server that checks keys, and that is away or slow when a test says so."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from support.object_store import Bucket
from support.ports import free_port

KEY_ID, SECRET, EXPIRED_KEY_ID, REGION = "an-id", "a-secret", "an-expired-id", "us-east-1"
SLOW_CHUNK, SLOW_SECONDS = 2**16, 0.1
Request = tuple[str, str]  # method and path


class S3Server:
    """moto on an address of this machine, behind a front with the faults.

    Attributes
    ----------
    breaks_at
        Returns whether the server goes away for `outage` seconds in the place of an answer; of the first such request alone.
    outages
        The requests at which it did.
    slow_path
        The path of an object that is sent slowly.
    """

    def __init__(self, host: str, outage: float) -> None:
        self.host = host
        self.port = free_port()
        self.breaks_at: Callable[[Request], bool] | None = None
        self.outages: list[Request] = []
        self.slow_path = ""
        self._outage = outage
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._return: threading.Timer | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def open(self) -> None:
        """Accept connections."""
        self._server = make_server(self.host, self.port, self, threaded=True, request_handler=MotoRequestHandler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def go_away(self) -> None:
        """Refuse connections for `outage` seconds."""
        self.close()
        self._return = threading.Timer(self._outage, self.open)
        self._return.start()

    def stop(self) -> None:
        """Refuse connections for ever."""
        if self._return is not None:
            self._return.cancel()
            self._return.join()
        self.close()

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        """Answer a request as moto does, or with a fault (WSGI)."""
        request = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if self.breaks_at is not None and self.breaks_at(request):
            self.breaks_at = None
            self.outages.append(request)
            self.go_away()
            environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        if refusal := _check_key(environment.get("HTTP_AUTHORIZATION", "")):
            status, code = refusal
            start_response(status, [("Content-Type", "application/xml")])
            if request[0] != "HEAD":
                yield f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
            return
        answer: Iterable[bytes] = self._moto(environment, start_response)
        for part in answer:
            yield from self._send_slowly(part) if request[1] == self.slow_path else (part,)

    def _send_slowly(self, content: bytes) -> Iterator[bytes]:
        for start in range(0, len(content), SLOW_CHUNK):
            time.sleep(SLOW_SECONDS)
            yield content[start : start + SLOW_CHUNK]


def _check_key(authorization: str) -> tuple[str, str] | None:
    """Return status and code of a refusal; moto itself accepts every key."""
    found = re.search(r"Credential=([^/]+)/", authorization)
    if found is None:
        return "403 Forbidden", "AccessDenied"
    if found[1] == EXPIRED_KEY_ID:
        return "400 Bad Request", "ExpiredToken"
    return None if found[1] == KEY_ID else ("403 Forbidden", "InvalidAccessKeyId")


@contextmanager
def serve_s3(host: str, bucket: str, outage: float = 60) -> Iterator[tuple[S3Server, Bucket]]:
    """Run a server with one bucket on an address of this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(host, outage)
    server.open()
    client = boto3.client(
        "s3", endpoint_url=server.url, region_name=REGION, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
        config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=bucket)
        yield server, Bucket(bucket, server.port, client)
    finally:
        client.close()
        server.stop()
