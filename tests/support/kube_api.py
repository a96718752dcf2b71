"""A thin client of the API server: plain JSON over one aiohttp session. For tests and benchmarks."""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from trainingtask_api.bounded_json import parse_json

Object = dict[str, Any]

TASKS = "/apis/trainingtask.dev/v1alpha1"
JOBS = "/apis/batch/v1"
PODS = "/api/v1"
JSON, MERGE_PATCH, APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"


class ApiError(Exception):
    """An error response of the API server.

    Attributes
    ----------
    status
        The HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """The API server that a kubeconfig with embedded certificates or a token names."""

    def __init__(self, kubeconfig: str, connections: int = 64) -> None:
        self._connections = connections
        document = yaml.safe_load(Path(kubeconfig).read_text())
        context = _find_named(document["contexts"], document["current-context"])["context"]
        cluster = _find_named(document["clusters"], context["cluster"])["cluster"]
        user = _find_named(document["users"], context["user"])["user"]
        tls = ssl.create_default_context(cadata=_decode(cluster["certificate-authority-data"]).decode())
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as pair:
                pair.write(_decode(user["client-certificate-data"]) + b"\n" + _decode(user["client-key-data"]))
                pair.flush()
                tls.load_cert_chain(pair.name)
        self.cluster = cluster
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._tls = tls

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            base_url=self.cluster["server"],
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=120),
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: object = None, kind: str = JSON, **params: str) -> Any:
        """Send a request; return the parsed answer, or its text when it is not JSON. A body of bytes is sent as it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        async with self._session.request(
            method, path, data=data, params=params, headers={"Content-Type": kind}
        ) as response:
            content = await response.read()
            if response.status >= 400:
                raise ApiError(response.status, content.decode())
            return parse_json(content) if response.content_type == "application/json" else content.decode()

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Object]]:
        """List, then watch, for as long as the caller iterates; the list's objects come as ADDED."""
        listed = await self.request("GET", path, **params)
        for item in listed["items"]:
            yield "ADDED", item
        version = listed["metadata"]["resourceVersion"]
        while True:
            wanted = {**params, "watch": "1", "allowWatchBookmarks": "1", "resourceVersion": version}
            async with self._session.get(path, params=wanted) as response:
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise ApiError(event["object"].get("code", 0), line.decode())
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield event["type"], event["object"]


async def gather_bounded(limit: int, calls: Any) -> None:
    """Run the coroutines of an iterable, `limit` at a time."""
    pending = iter(calls)

    async def worker() -> None:
        for call in pending:
            await call

    await asyncio.gather(*(worker() for _ in range(limit)))


def _find_named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["name"] == name)


def _decode(text: str) -> bytes:
    return base64.b64decode(text)
