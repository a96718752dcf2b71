"""The little that the web app asks the Kubernetes API: who holds a token, what they may do, which namespaces live.

::

    ApiServerError       the API server did not answer, or refused what the web app itself asks: nobody is let in
    TaskRefused          it refused a task that somebody wants to create; the message is its own

No message and no repr holds a token.
"""

import base64
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from trainingtask_api.names import GROUP, PLURAL, VERSION

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = httpx.Timeout(10, connect=5)
_PAGE = 500

Manifest = dict[str, Any]


class ApiServerError(Exception):
    """The Kubernetes API server is away, or does not let the web app do its part."""


class TaskRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The API server refused to create a task."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class User:
    """Somebody whom the API server knows, in its own words."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """Where the API server is, and how the web app proves who it is itself."""

    url: str
    ca: str | None = None
    token_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    certificate: tuple[str, str] | None = field(default=None, repr=False)
    """The client's certificate and its key, as PEM."""

    @classmethod
    def in_cluster(cls, host: str, port: str) -> "Address":
        """Return the address that a pod finds in its environment, with its ServiceAccount."""
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", (_ACCOUNT / "ca.crt").read_text(), token_file=_ACCOUNT / "token")

    @classmethod
    def of_kubeconfig(cls, file: Path) -> "Address":
        """Return the current context's address; its user has a certificate or a token."""
        config = yaml.safe_load(file.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        certificate, key = (_data(user, f"client-{part}", file) for part in ("certificate", "key"))
        both = (certificate, key) if certificate and key else None
        ca = _data(cluster, "certificate-authority", file)
        return cls(cluster["server"], ca, token=user.get("token"), certificate=both)


def _data(part: Manifest, name: str, file: Path) -> str | None:
    """Return what a kubeconfig holds itself, or names a file of."""
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"]).decode()
    return (file.parent / part[name]).read_text() if name in part else None


def _named(items: list[Manifest], name: str) -> Manifest:
    return next(item for item in items if item["name"] == name)


class ApiServer:
    """A client for many threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._own = _client(address, address.certificate)
        # The web app's own certificate would win over a person's token: their requests go without it.
        self._theirs = _client(address, None)

    def close(self) -> None:
        """Close the connections."""
        self._own.close()
        self._theirs.close()

    def token_review(self, token: str) -> User | None:
        """Return who holds a token; None when the API server does not know it.

        Raises
        ------
        ApiServerError
        """
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status = self._ask("POST", path, _review("authentication", "TokenReview", {"token": token})).get("status", {})
        if status.get("authenticated") is not True:
            return None
        user = status["user"]
        return User(user["username"], user.get("uid", ""), tuple(user.get("groups", ())), user.get("extra", {}))

    def may(self, user: User, verb: str, namespace: str | None) -> bool:
        """Return whether somebody may do something with the tasks of a namespace; None: of all namespaces.

        Raises
        ------
        ApiServerError
        """
        attributes = {"verb": verb, "group": GROUP, "resource": PLURAL, "namespace": namespace or ""}
        who = {"user": user.name, "uid": user.uid, "groups": list(user.groups), "extra": dict(user.extra)}
        spec = {**who, "resourceAttributes": attributes}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        status = self._ask("POST", path, _review("authorization", "SubjectAccessReview", spec)).get("status", {})
        return status.get("allowed") is True

    def namespaces(self) -> dict[str, str]:
        """Return the names of the namespaces that live, by their uids.

        Raises
        ------
        ApiServerError
        """
        return {item["metadata"]["uid"]: item["metadata"]["name"] for item in self._list("/api/v1/namespaces")}

    def create_task(self, token: str, namespace: str, task: Manifest) -> Manifest:
        """Create a task as the person whose token this is.

        Raises
        ------
        TaskRefused
            When the API server does not want it, or not from them.
        ApiServerError
            When it does not answer.
        """
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        answer = _send(self._theirs, "POST", path, task, token)
        if answer.is_success:
            return _json(answer)
        if answer.is_server_error:
            raise ApiServerError(f"the Kubernetes API server failed to create a task: {_message(answer)}")
        raise TaskRefused(answer.status_code, _message(answer))

    def _list(self, path: str) -> Iterator[Manifest]:
        parameters = {"limit": str(_PAGE)}
        while True:
            answer = self._ask("GET", str(httpx.URL(path, params=parameters)))
            yield from answer["items"]
            following = answer["metadata"].get("continue")
            if not following:
                return
            parameters["continue"] = following

    def _ask(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        file = self._address.token_file
        token = file.read_text().strip() if file is not None else self._address.token  # Kubernetes renews the file
        answer = _send(self._own, method, path, body, token)
        if not answer.is_success:
            raise ApiServerError(f"the Kubernetes API server refused {method} {path}: {_message(answer)}")
        return _json(answer)


def _client(address: Address, certificate: tuple[str, str] | None) -> httpx.Client:
    context = ssl.create_default_context(cadata=address.ca)
    if certificate is not None:
        with tempfile.NamedTemporaryFile("w") as file:  # ssl reads from files alone; this one is the owner's alone
            file.write("\n".join(certificate))
            file.flush()
            context.load_cert_chain(file.name)
    # No proxy and no netrc of the environment: the API server is near, and a token is no one else's business.
    return httpx.Client(base_url=address.url, verify=context, timeout=_SECONDS, trust_env=False)


def _review(group: str, kind: str, spec: Manifest) -> Manifest:
    return {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, "spec": spec}


def _send(client: httpx.Client, method: str, path: str, body: Manifest | None, token: str | None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return client.request(method, path, json=body, headers=headers)
    except httpx.HTTPError as error:
        # `from None`: the request, with its headers, hangs on the exception.
        raise ApiServerError(f"the Kubernetes API server did not answer: {type(error).__name__}") from None


def _json(answer: httpx.Response) -> Manifest:
    try:
        found: Manifest = answer.json()
    except ValueError:
        raise ApiServerError("the Kubernetes API server answered with something that is no JSON") from None
    return found


def _message(answer: httpx.Response) -> str:
    """Return what a Status object says."""
    try:
        said = answer.json().get("message")
    except (ValueError, AttributeError):
        said = None
    return said if isinstance(said, str) else f"status {answer.status_code}"
