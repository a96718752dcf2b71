"""The requests of huggingface_hub that write to a hub: repositories, branches, large files (LFS) and commits."""

import base64
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.hub_server import Hub, Repository

Reply = tuple[int, Any]

_BRANCH = re.compile(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)")
_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
_LARGE_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_LARGE_FILE = re.compile(r"/large/([0-9a-f]{64})")
_LARGE_BYTES = 1000


def answer(hub: "Hub", command: str, path: str, authorization: str | None, body: bytes) -> Reply | None:
    """Return status and JSON of a request that writes, None for any other."""
    if command == "PUT" and (match := _LARGE_FILE.fullmatch(path)):  # its address is the permission
        hub.large_files[match[1]] = body
        return 200, {}
    if path == "/api/validate-yaml":
        return 200, {}
    is_create = path == "/api/repos/create"
    match = next(
        (found for form in (_BRANCH, _PREUPLOAD, _COMMIT, _LARGE_BATCH) if (found := form.fullmatch(path))), None
    )
    if command not in ("POST", "DELETE") or not (is_create or match):
        return None
    if authorization is None or authorization != f"Bearer {hub.writer}":
        return 401 if authorization is None else 403, {}
    if is_create:
        return _create(hub, json.loads(body))
    assert match is not None
    repository = hub.repositories[f"models/{match[1]}"]
    if match.re is _BRANCH:
        return _change_branch(repository, command, match[2])
    if match.re is _PREUPLOAD:
        return 200, {"files": [_choose_mode(file) for file in json.loads(body)["files"]]}
    if match.re is _LARGE_BATCH:
        return 200, {"transfer": "basic", "objects": [_offer(hub, wanted) for wanted in json.loads(body)["objects"]]}
    return _commit(hub, match[1], match[2], [json.loads(line) for line in body.splitlines()])


def _create(hub: "Hub", wanted: dict[str, Any]) -> Reply:
    name = f"{wanted['organization']}/{wanted['name']}"
    url = {"url": f"{hub.address}/{name}"}
    if f"models/{name}" in hub.repositories:
        return 409, url
    hub.add(f"models/{name}", {".gitattributes": b""}, token=hub.writer if wanted["visibility"] == "private" else None)
    return 200, url


def _change_branch(repository: "Repository", command: str, name: str) -> Reply:
    is_there = name in repository.branches
    if command == "DELETE":
        repository.branches.pop(name, None)
        return 200 if is_there else 404, {}
    repository.branches.setdefault(name, repository.main)
    return 409 if is_there else 200, {}


def _choose_mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] > _LARGE_BYTES else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _offer(hub: "Hub", wanted: dict[str, Any]) -> dict[str, Any]:
    return {**wanted, "actions": {"upload": {"href": f"{hub.address}/large/{wanted['oid']}"}}}


def _commit(hub: "Hub", name: str, branch: str, lines: list[dict[str, Any]]) -> Reply:
    repository = hub.repositories[f"models/{name}"]
    files = dict(repository.commits[repository.find(branch)])
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large_files[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    commit = repository.commit(files, branch)
    return 200, {"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit}
