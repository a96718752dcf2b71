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
from trainingtask_cli.api_errors import Request, build_connection_error, build_response_error
from trainingtask_cli.errors import CommandError, GoneError, TemporaryError

Object = dict[str, Any]

_TASKS = f"/apis/{names.GROUP}/{names.VERSION}"
_PODS = "/api/v1"
_PAGE_SIZE = 500
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_WATCH_SECONDS = 240  # the API server ends a watch then; a longer silence means that the connection is dead
_MAX_OUTAGE_SECONDS = 60  # how long a watch that has begun may be without an API server
_SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of a pod, where Kubernetes mounts it


class Cluster:
    """The cluster of a kubeconfig's context, else the one whose pod this is."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        self._configuration, own = _load_configuration(kubeconfig, context)
        self.namespace: str = namespace or own or "default"
        from kubernetes.client import ApiClient  # noqa: PLC0415 - see above

        self._client = ApiClient(self._configuration)

    def get_token(self) -> str | None:
        """Return the bearer token that the kubeconfig logs in with, None when it uses something else."""
        header = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
        scheme, _, token = str(header).partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def list_tasks(self, *, all_namespaces: bool = False) -> list[Object]:
        """Return the tasks of the namespace, or of all namespaces."""
        return self._list_tasks(all_namespaces)[0]

    def get_task(self, name: str) -> Object:
        """Return one task."""
        return self._request_json("GET", Request("get", names.PLURAL, self.namespace, name))

    def create_task(self, manifest: Object) -> Object:
        """Create a task."""
        request = Request("create", names.PLURAL, self.namespace, manifest["metadata"]["name"])
        return self._request_json("POST", request, body=manifest)

    def delete_task(self, task: Object) -> None:
        """Delete this very task, not one of the same name that has come since; its Job and pods go with it."""
        body = {"preconditions": {"uid": task["metadata"]["uid"]}, "propagationPolicy": "Background"}
        self._request_json(
            "DELETE", Request("delete", names.PLURAL, self.namespace, task["metadata"]["name"]), body=body
        )

    def get_newest_pod(self, task: Object) -> Object | None:
        """Return the pod of the latest attempt, None when there is none."""
        request = Request("list", "pods", self.namespace)
        query = {"labelSelector": f"{names.TASK_UID_LABEL}={task['metadata']['uid']}"}
        pods = self._request_json("GET", request, query)["items"]
        return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    def stream_log(self, pod: str, *, follow: bool = False) -> Iterator[bytes]:
        """Yield the trainer's log as it comes."""
        request = Request("get", "pods", self.namespace, pod)
        query = {"container": names.TRAINER_CONTAINER, "follow": str(follow).lower()}
        timeout = None if follow else _READ_SECONDS
        with _Reading(self._server):
            yield from self._send("GET", request, query, timeout=timeout, part="/log").stream(2**16)

    def watch_tasks(self, *, all_namespaces: bool = False, pause: float = 1.0) -> Iterator[dict[str, Object]]:
        """Yield the tasks by uid, at once and whenever one of them has changed; never ends by itself.

        What the watch missed while it was down, a new list finds.
        """
        lost_since: float | None = None
        begun = False
        while True:
            try:
                items, version = self._list_tasks(all_namespaces)
                tasks = {item["metadata"]["uid"]: item for item in items}
                lost_since, begun = None, True
                yield dict(tasks)
                for event in self._watch_events(all_namespaces, version):
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
                if not begun or time.monotonic() - lost_since > _MAX_OUTAGE_SECONDS:
                    raise
            time.sleep(pause)

    def _list_tasks(self, all_namespaces: bool) -> tuple[list[Object], str]:
        request = Request("list", names.PLURAL, None if all_namespaces else self.namespace)
        items: list[Object] = []
        query = {"limit": str(_PAGE_SIZE)}
        while True:
            page = self._request_json("GET", request, query)
            items += page["items"]
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        # The items of a list do not say what they are.
        return [{"apiVersion": names.API_VERSION, "kind": names.KIND, **item} for item in items], page["metadata"][
            "resourceVersion"
        ]

    def _watch_events(self, all_namespaces: bool, version: str) -> Iterator[Object]:
        """Yield what happens after `version` until the API server ends the watch."""
        request = Request("watch", names.PLURAL, None if all_namespaces else self.namespace)
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        with _Reading(self._server):
            rest = b""
            for chunk in self._send("GET", request, query, timeout=_WATCH_SECONDS + _READ_SECONDS).stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise build_response_error(
                            request, event["object"].get("code", 500), json.dumps(event["object"])
                        )
                    yield event

    def _request_json(
        self, method: str, request: Request, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Object:
        with _Reading(self._server):
            answer: Object = json.loads(self._send(method, request, query, body=body).data)
        return answer

    def _send(
        self,
        method: str,
        request: Request,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        timeout: float | None = _READ_SECONDS,
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
            raise build_response_error(request, response.status, response.data.decode("utf-8", "replace"))
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
            raise CommandError(_describe_tls_error(self._server, str(error.reason))) from None
        if isinstance(error, SSLError):
            raise CommandError(_describe_tls_error(self._server, str(error))) from None
        if isinstance(error, HTTPError):
            raise build_connection_error(self._server, _strip_object_names(error)) from None
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
            raise CommandError(f"{self._server} does not answer as an API server does: check --context") from None


def _describe_tls_error(server: str, cause: str) -> str:
    return f"no secure connection to the API server at {server}: {' '.join(cause.split())}"


def _strip_object_names(error: Exception) -> str:
    """Return why a connection failed, without the names of Python objects that urllib3 puts before it."""
    return str(error).rpartition(": ")[2].strip() or type(error).__name__


def _load_configuration(kubeconfig: str | None, context: str | None) -> tuple[Any, str | None]:
    """Return the client's configuration and the namespace that goes with it."""
    from kubernetes.client import Configuration  # noqa: PLC0415 - see above
    from kubernetes.config import ConfigException, load_incluster_config  # noqa: PLC0415
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    configuration = Configuration()
    configuration.retries = False  # else a server that is down is asked four times, with a warning each
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT_DIR.exists()
    if not kubeconfig and not context and in_a_pod and not Path(path).expanduser().exists():
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return configuration, (_SERVICE_ACCOUNT_DIR / "namespace").read_text(encoding="utf-8").strip()
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
