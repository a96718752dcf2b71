"""Error responses of the API server -> one sentence for a person: what happened, and what to do. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainingtask_api import names
from trainingtask_cli.errors import CommandError, GoneError, NotFoundError, TemporaryError


@dataclass(frozen=True)
class Request:
    """A request, in the terms of the message about its failure."""

    verb: str  # such as "list"
    plural: str  # such as "trainingtasks"
    namespace: str | None = None
    name: str | None = None
    subresource: str = ""  # such as "log"


def build_response_error(request: Request, status: int, body: str) -> CommandError:
    """Return the error for a response whose status is no success."""
    status_object = _parse_status(body)
    message = str(status_object.get("message") or " ".join(body.split())[:300] or "it said nothing more")
    if status == 401:
        return CommandError(
            "the API server does not know who you are: log in again, or choose another --context"
            " (`kubectl auth whoami` shows who it takes you for)"
        )
    if status == 403:
        return CommandError(f"{message}: ask whoever runs the cluster for that right, or name another namespace (-n)")
    if status == 404:
        return NotFoundError(_describe_not_found(request, status_object, message))
    if status == 409 and request.plural == names.PLURAL and status_object.get("reason") == "AlreadyExists":
        return CommandError(
            f"there is a TrainingTask {request.name!r} in namespace {request.namespace!r} already: choose another name,"
            f" or delete that one first (`kubectl trainingtask cancel {request.name} -n {request.namespace}`)"
        )
    if status == 409:
        return CommandError(f"{message}: it has changed meanwhile, look at it again and repeat the command")
    if status == 410:
        return GoneError(f"{message}: repeat the command")
    if status in (400, 422):
        return CommandError(f"the API server refuses it: {message}")
    if status == 429 or status >= 500:
        return TemporaryError(f"the API server cannot answer now ({status}: {message}): try again in a moment")
    return CommandError(f"the API server answered {status} to `{request.verb} {request.plural}`: {message}")


def build_connection_error(server: str, cause: str) -> TemporaryError:
    """Return the error for a request without a response."""
    return TemporaryError(
        f"the API server at {server} does not answer ({cause}): check that the cluster runs and that --context and"
        " --kubeconfig name the right one (`kubectl config get-contexts`)"
    )


def _describe_not_found(request: Request, status_object: Mapping[str, Any], message: str) -> str:
    details = status_object.get("details")
    missing = details.get("name") if isinstance(details, Mapping) else None
    if request.subresource == "log":
        return f"{message}: the pod is gone, `kubectl trainingtask history` keeps the last lines of its log"
    if not missing:
        return (
            "this cluster has no TrainingTasks: install the chart trainingtask-operator, or choose another cluster"
            " with --context"
        )
    if missing != request.name:
        return f"{message}: choose another namespace (-n), or have it created"
    if request.plural != names.PLURAL:
        return message
    return (
        f"there is no TrainingTask {request.name!r} in namespace {request.namespace!r}: `kubectl trainingtask list -A`"
        " shows the tasks there are, `kubectl trainingtask history` those there were"
    )


def _parse_status(body: str) -> Mapping[str, Any]:
    """Return the Status object of a response, {} for another body, such as a proxy's HTML."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
