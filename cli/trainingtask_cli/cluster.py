"""The narrow access to the API server: tasks, their pods and their logs, as plain objects.

The kubernetes client costs a second to import, so nothing here imports it before a request is made.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainingtask_api import names
from trainingtask_cli.api_errors import Request, refusal, unreachable
from trainingtask_cli.errors import CommandError, GoneError, TemporaryError

Object = dict[str, Any]

_TASKS = f"/apis/{names.GROUP}/{names.VERSION}"
_PODS = "/api/v1"
_PAGE = 500
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60
_WATCH_SECONDS = 240  # the API server ends a watch then; a longer silence means that the connection is dead
_PATIENCE_SECONDS = 60  # how long a watch that has begun may be without an API server
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of a pod, where Kubernetes mounts it


class Cluster:
    """The cluster of a kubeconfig's context, else the one whose pod this is."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        self._configuration, own = _configuration(kubeconfig, context)
        self.namespace: str = namespace or own or "default"
        from kubernetes.client import ApiClient  # noqa: PLC0415 - see above

        self._client = ApiClient(self._configuration)

    def token(self) -> str | None:
        """Return the bearer token that the kubeconfig logs in with, None when it uses something else."""
        header = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
        scheme, _, token = str(header).partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def tasks(self, *, everywhere: bool = False) -> list[Object]:
        """Return the tasks of the namespace, or of all namespaces."""
        return self._list_tasks(everywhere)[0]

    def task(self, name: str) -> Object:
        """Return one task."""
        return self._json("GET", Request("get", names.PLURAL, self.namespace, name))

    def create(self, manifest: Object) -> Object:
        """Create a task."""
        request = Request("create", names.PLURAL, self.namespace, manifest["metadata"]["name"])
        return self._json("POST", request, body=manifest)

    def delete(self, task: Object) -> None:
        """Delete this very task, not one of the same name that has come since; its Job and pods go with it."""
        body = {"preconditions": {"uid": task["metadata"]["uid"]}, "propagationPolicy": "Background"}
        self._json("DELETE", Request("delete", names.PLURAL, self.namespace, task["metadata"]["name"]), body=body)

    def newest_pod(self, task: Object) -> Object | None:
        """Return the pod of the latest attempt, None when there is none."""
        request = Request("list", "pods", self.namespace)
        query = {"labelSelector": f"{names.TASK_UID_LABEL}={task['metadata']['uid']}"}
        pods = self._json("GET", request, query)["items"]
        return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    def log(self, pod: str, *, follow: bool = False) -> Iterator[bytes]:
        """Yield the trainer's log as it comes."""
        request = Request("get", "pods", self.namespace, pod)
        query = {"container": names.TRAINER_CONTAINER, "follow": str(follow).lower()}
        timeout = None if follow else _ANSWER_SECONDS
        with _Reading(self._server):
            yield from self._open("GET", request, query, timeout=timeout, part="/log").stream(2**16)

    def follow(self, *, everywhere: bool = False, pause: float = 1.0) -> Iterator[dict[str, Object]]:
        """Yield the tasks by uid, at once and whenever one of them has changed; never ends by itself.

        What the watch missed while it was down, a new list finds.
        """
        lost_since: float | None = None
        begun = False
        while True:
            try:
                items, version = self._list_tasks(everywhere)
                tasks = {item["metadata"]["uid"]: item for item in items}
                lost_since, begun = None, True
                yield dict(tasks)
                for event in self._events(everywhere, version):
                    uid = event["object"]["metadata"]["uid"]
                    if event["type"] == "DELETED":
                        tasks.pop(uid, None)
                    else:
                        tasks[uid] = event["object"]
                    yield dict(tasks)
            except GoneError:
                pass
            except TemporaryError:
                lost_since = lost_since or time.monotonic()
                if not begun or time.monotonic() - lost_since > _PATIENCE_SECONDS:
                    raise
            time.sleep(pause)

    def _list_tasks(self, everywhere: bool) -> tuple[list[Object], str]:
        request = Request("list", names.PLURAL, None if everywhere else self.namespace)
        items: list[Object] = []
        query = {"limit": str(_PAGE)}
        while True:
            page = self._json("GET", request, query)
            items += page["items"]
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        # The items of a list do not say what they are.
        return [{"apiVersion": names.API_VERSION, "kind": names.KIND, **item} for item in items], page["metadata"][
            "resourceVersion"
        ]

    def _events(self, everywhere: bool, version: str) -> Iterator[Object]:
        """Yield what happens after `version` until the API server ends the watch."""
        request = Request("watch", names.PLURAL, None if everywhere else self.namespace)
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        with _Reading(self._server):
            rest = b""
            for chunk in self._open("GET", request, query, timeout=_WATCH_SECONDS + _ANSWER_SECONDS).stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise refusal(request, event["object"].get("code", 500), json.dumps(event["object"]))
                    yield event

    def _json(self, method: str, request: Request, query: Mapping[str, str] | None = None, body: Any = None) -> Object:
        with _Reading(self._server):
            answer: Object = json.loads(self._open(method, request, query, body=body).data)
        return answer

    def _open(
        self,
        method: str,
        request: Request,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        timeout: float | None = _ANSWER_SECONDS,
        part: str = "",
    ) -> Any:
        """Return the answer of a request that was not refused, not read yet; see urllib3's HTTPResponse."""
        within = {"namespace": request.namespace, "name": request.name if method != "POST" else None}
        path = (
            (_PODS if request.plural == "pods" else _TASKS)
            + ("/namespaces/{namespace}" if within["namespace"] else "")
            + f"/{request.plural}"
            + ("/{name}" if within["name"] else "")
            + part
        )
        called = self._client.param_serialize(
            method,
            path,
            path_params={key: value for key, value in within.items() if value},
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*called, _request_timeout=(_CONNECT_SECONDS, timeout)).response
        if not 200 <= response.status <= 299:
            raise refusal(request, response.status, response.data.decode("utf-8", "replace"))
        return response

    @property
    def _server(self) -> str:
        return str(self._configuration.host)


class _Reading:
    """Turns the client's errors, of a request as of what is read of its answer, into a sentence."""

    def __init__(self, server: str) -> None:
        self._server = server

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError, SSLError  # noqa: PLC0415

        if isinstance(error, ApiException):  # all that is left of an error of TLS
            raise CommandError(_not_trusted(self._server, str(error.reason))) from None
        if isinstance(error, SSLError):
            raise CommandError(_not_trusted(self._server, str(error))) from None
        if isinstance(error, HTTPError):
            raise unreachable(self._server, _cause(error)) from None
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
            raise CommandError(f"{self._server} does not answer as an API server does: check --context") from None


def _not_trusted(server: str, cause: str) -> str:
    return f"no secure connection to the API server at {server}: {' '.join(cause.split())}"


def _cause(error: Exception) -> str:
    """Return why a connection failed, without the names of Python objects that urllib3 puts before it."""
    return str(error).rpartition(": ")[2].strip() or type(error).__name__


def _configuration(kubeconfig: str | None, context: str | None) -> tuple[Any, str | None]:
    """Return the client's configuration and the namespace that goes with it."""
    from kubernetes.client import Configuration  # noqa: PLC0415 - see above
    from kubernetes.config import ConfigException, load_incluster_config  # noqa: PLC0415
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    configuration = Configuration()
    configuration.retries = False  # else a server that is down is asked four times, with a warning each
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ and _ACCOUNT.exists()
    if not kubeconfig and not context and in_a_pod and not Path(path).expanduser().exists():
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return configuration, (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    try:
        merged = KubeConfigMerger(path)  # type: ignore[no-untyped-call]
        if merged.config is None:
            raise ConfigException("there is no such file")
        loader = KubeConfigLoader(merged.config, context, config_base_path=None, config_persister=merged.save_changes)  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, YAMLError, OSError) as error:
        raise CommandError(
            f"the kubeconfig {path} cannot be used: {' '.join(str(error).split())} (--kubeconfig and --context name"
            " another one, `kubectl config get-contexts` lists them)"
        ) from None
    return configuration, loader.current_context["context"].get("namespace")
