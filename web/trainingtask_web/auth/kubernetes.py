"""The Kubernetes API as the web app uses it: token reviews, access reviews, namespaces, and tasks created as a user.

No repr holds a token.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import (
    ApiClient,
    ApiException,
    AuthenticationV1Api,
    AuthorizationV1Api,
    Configuration,
    CoreV1Api,
    CustomObjectsApi,
)
from kubernetes.config import load_incluster_config, load_kube_config
from urllib3.exceptions import HTTPError

from trainingtask_api.bounded_json import parse_json
from trainingtask_api.names import GROUP, PLURAL, VERSION
from trainingtask_web.auth.errors import ApiServerError, TaskRejected

_TIMEOUT = (5, 10)  # seconds to connect, to read
_PAGE_SIZE = 500
_MAX_CONNECTIONS = 32  # more than the threads that send requests at once

Manifest = dict[str, Any]


@dataclass(frozen=True)
class User:
    """A user as a TokenReview describes it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, list[str]] = field(default_factory=dict)


def load_configuration(environment: Mapping[str, str]) -> Configuration | None:
    """Return how to reach the API server: from inside a pod, else by KUBECONFIG, else None.

    Raises
    ------
    ConfigException, OSError
        When what is there cannot be read.
    """
    configuration = make_configuration()
    if environment.get("KUBERNETES_SERVICE_HOST") and environment.get("KUBERNETES_SERVICE_PORT"):
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    elif kubeconfig := environment.get("KUBECONFIG"):
        load_kube_config(kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        return None
    return configuration


def make_configuration(**options: Any) -> Configuration:
    """Return a client's configuration without retries and without a proxy of the environment."""
    configuration = Configuration(connection_pool_maxsize=_MAX_CONNECTIONS, **options)
    configuration.retries = False  # people wait for the answer, and may ask again themselves
    configuration.proxy = None  # the API server is near, and no proxy may see a token
    return configuration


class ApiServer:
    """A client for many threads."""

    def __init__(self, configuration: Configuration) -> None:
        self._own = ApiClient(configuration)
        # A client certificate would win over a user's token: their requests go without the web app's credentials.
        self._bare = ApiClient(
            make_configuration(
                host=configuration.host,
                ssl_ca_cert=configuration.ssl_ca_cert,
                verify_ssl=configuration.verify_ssl,
                tls_server_name=configuration.tls_server_name,
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self._own.rest_client.close()
        self._bare.rest_client.close()

    def review_token(self, token: str) -> User | None:
        """Return the user of a token; None when the API server does not know it.

        Raises
        ------
        ApiServerError
        """
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        create = AuthenticationV1Api(self._own).create_token_review
        status = _request("review a token", create, body=review).get("status", {})
        if status.get("authenticated") is not True:
            return None
        user = status["user"]
        return User(user["username"], user.get("uid", ""), tuple(user.get("groups", ())), user.get("extra", {}))

    def is_allowed(self, user: User, verb: str, namespace: str | None) -> bool:
        """Return whether a user may use a verb on the tasks of a namespace; None: of all namespaces.

        Raises
        ------
        ApiServerError
        """
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "resourceAttributes": {"verb": verb, "group": GROUP, "resource": PLURAL, "namespace": namespace or ""},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        create = AuthorizationV1Api(self._own).create_subject_access_review
        return _request("review access", create, body=review).get("status", {}).get("allowed") is True

    def list_namespaces(self) -> dict[str, str]:
        """Return the names of the existing namespaces by uid.

        Raises
        ------
        ApiServerError
        """
        return {item["metadata"]["uid"]: item["metadata"]["name"] for item in self._iter_namespaces()}

    def create_task(self, token: str, namespace: str, task: Manifest) -> Manifest:
        """Create a task with a user's own token.

        Raises
        ------
        TaskRejected
            When the task is invalid, or the user may not create it.
        ApiServerError
            When the API server does not answer.
        """
        create = CustomObjectsApi(self._bare).create_namespaced_custom_object
        credentials = {"type": "bearer", "in": "header", "key": "authorization", "value": f"Bearer {token}"}
        status, body = _send(create, GROUP, VERSION, namespace, PLURAL, task, _request_auth=credentials)
        if 200 <= status < 300:
            return _parse(body)
        if status >= 500:
            raise ApiServerError(f"the Kubernetes API server failed to create a task: {_describe_error(status, body)}")
        raise TaskRejected(status, _describe_error(status, body))

    def _iter_namespaces(self) -> Iterator[Manifest]:
        read = CoreV1Api(self._own).list_namespace
        token: str | None = None
        while True:
            page = _request("list namespaces", read, limit=_PAGE_SIZE, _continue=token)
            yield from page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return


def _request(what: str, call: Callable[..., Any], **arguments: Any) -> Manifest:
    """Return the answer to a request of the web app itself."""
    status, body = _send(call, **arguments)
    if not 200 <= status < 300:
        raise ApiServerError(f"the Kubernetes API server refused to {what}: {_describe_error(status, body)}")
    return _parse(body)


def _send(call: Callable[..., Any], *positional: Any, **arguments: Any) -> tuple[int, bytes]:
    """Return status and body of the response, whatever the status."""
    try:
        response = call(*positional, _preload_content=False, _request_timeout=_TIMEOUT, **arguments)
        return response.status, response.data
    except (HTTPError, ApiException) as error:
        if isinstance(error, ApiException) and error.status:
            return error.status, (error.body or "").encode()
        # `from None`: an error of the client may hold the request with its headers.
        raise ApiServerError(f"the Kubernetes API server did not answer: {type(error).__name__}") from None


def _parse(body: bytes) -> Manifest:
    try:
        parsed: Manifest = parse_json(body)
    except ValueError:
        raise ApiServerError("the Kubernetes API server answered with something that is no JSON") from None
    return parsed


def _describe_error(status: int, body: bytes) -> str:
    """Return the message of a Status object."""
    try:
        message = parse_json(body).get("message")
    except (ValueError, AttributeError):
        message = None
    return message if isinstance(message, str) else f"status {status}"
