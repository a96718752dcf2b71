"""A hub on this machine: the requests of huggingface_hub and `datasets` that read a repository, and the errors of a hub."""

import hashlib
import io
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants, hf_api

from support import hub_writes
from trainingtask_trainer.storage import hub_client

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """A repository: its commits with their files, the branch `main` and others, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    main: str = ""
    is_gated: bool = False
    token: str | None = None

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files, have `main` or another branch point to it, and return it."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode(), usedforsecurity=False).hexdigest()
        self.commits[digest] = files
        if branch == "main":
            self.main = digest
        else:
            self.branches[branch] = digest
        return digest

    def find(self, revision: str | None) -> str:
        """Return the commit of a revision; a commit is one itself."""
        return self.main if revision in (None, "main") else self.branches.get(str(revision), str(revision))


@dataclass
class Hub:
    """Repositories by kind and id, such as 'datasets/me/rows', and answers that come before the usual ones.

    Attributes
    ----------
    troubles
        Status and headers of the next answers.
    outage
        Status of all answers, while it is set.
    writer
        The token that may write; without one nobody may.
    large_files
        Contents by their SHA-256, uploaded and not yet committed.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    troubles: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    outage: int | None = None
    requests: list[str] = field(default_factory=list)
    writer: str | None = None
    large_files: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind_and_id: str, files: dict[str, bytes], **options: Any) -> Repository:
        """Add a repository with one commit."""
        repository = self.repositories[kind_and_id] = Repository(**options)
        repository.commit(files)
        return repository


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._handle(body)

    do_PUT = do_DELETE = do_POST  # noqa: N815 - the names of the base class

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.outage is not None:
            return self._send(self.hub.outage)
        if self.hub.troubles:
            status, headers = self.hub.troubles.pop(0)
            return self._send(status, headers=headers)
        if (
            answer := hub_writes.answer(self.hub, self.command, path, self.headers.get("Authorization"), body)
        ) is not None:
            return self._send(answer[0], json.dumps(answer[1]).encode(), {"Content-Type": "application/json"})
        if match := _API.fullmatch(path):
            kind, name, action, revision, rest = match.groups()
        elif match := _FILE.fullmatch(path):
            kind, name, action, revision, rest = match[1] or "models/", match[2], "resolve", match[3], match[4]
        else:
            return self._refuse(404, "EntryNotFound")
        repository = self.hub.repositories.get(f"{kind.rstrip('/')}/{name}")
        is_known = self.headers.get("Authorization") == f"Bearer {repository.token}" if repository else False
        if repository is None or (repository.token and not repository.is_gated and not is_known):
            return self._refuse(404, "RepoNotFound")
        if repository.is_gated and action == "resolve" and not is_known:
            return self._refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo")
        commit = repository.find(revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if action == "resolve":
            return self._send_file(commit, files.get(rest))
        if action == "tree":
            query = parse_qs(urlsplit(self.path).query)
            return self._send_json(_list_folder(files, rest, query.get("recursive", [""])[0].lower() == "true"))
        if action == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]*)", body.decode())
            return self._send_json([_describe(path, files[path]) for path in map(unquote, wanted) if path in files])
        siblings = [{"rfilename": path} for path in files]
        return self._send_json({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def _send_file(self, commit: str, content: bytes | None) -> None:
        if content is None:
            return self._send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _send_json(self, value: Any) -> None:
        if value is None:
            return self._refuse(404, "EntryNotFound")
        return self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, headers={"X-Error-Code": code})

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _list_folder(files: dict[str, bytes], folder: str | None, is_recursive: bool) -> list[dict[str, Any]] | None:
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    inside = [path for path in sorted(files) if path.startswith(prefix)]
    if prefix and not inside:
        return None
    parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
    entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(parents)]
    entries += [_describe(path, files[path]) for path in inside]
    return [entry for entry in entries if is_recursive or "/" not in entry["path"].removeprefix(prefix)]


def _describe(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


@contextmanager
def serve_hub(certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[Hub]:
    """Serve a hub at an address of this machine while entered; with a certificate, at ``https://``."""
    hub = Hub()
    server = ThreadingHTTPServer((host, 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = False  # server_close waits for the threads
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.address = f"{'http' if certificate is None else 'https'}://{host}:{server.server_port}"
    try:
        yield hub
    finally:
        huggingface_hub.close_session()  # its open connections keep the server's threads
        server.shutdown()
        server.server_close()
        thread.join()


def to_parquet(rows: datasets.Dataset) -> bytes:
    """Return the file that `push_to_hub` writes for these rows, with the features in its schema."""
    file = io.BytesIO()
    rows.to_parquet(file)
    return file.getvalue()


def write_card(configs: dict[str, dict[str, str]]) -> bytes:
    """Return a README.md that says which files are which split of which configuration."""
    listed = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
        for name, splits in configs.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': listed})}---\n".encode()


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path, max_wait: float = 30.0) -> None:
    """Have the libraries of this process, which have read their variables, ask this hub and use this cache."""
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(hub_client, "MAX_WAIT", max_wait)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.close_session()
    huggingface_hub.HfFileSystem.clear_instance_cache()
