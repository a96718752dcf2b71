"""The API server as the commands use it: tasks, pods, logs and other objects of a namespace, as plain objects.

The kubernetes client takes a second to import, so it is imported by the first use alone.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainingtask_api import names
from trainingtask_api.bounded_json import parse_json
from trainingtask_cli.api_errors import Request, build_connection_error, build_response_error
from trainingtask_cli.errors import CommandError, GoneError, TemporaryError
from trainingtask_cli.parsing import Object

_API_PATHS = {names.PLURAL: f"/apis/{names.GROUP}/{names.VERSION}", "jobs": "/apis/batch/v1"}
_CORE_PATH = "/api/v1"
_PAGE_SIZE = 500
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_WATCH_SECONDS = 240  # after which the API server ends a watch; beyond, the connection is dead
_MAX_OUTAGE_SECONDS = 60  # after which a running watch gives up on an API server that is away
_SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where Kubernetes mounts it in a pod


class Cluster:
    """A client of the cluster of a kubeconfig's context, else of the cluster that this pod runs in."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        self._configuration, own_namespace = _load_configuration(kubeconfig, context)
        self._kubectl_flags = {"kubeconfig": kubeconfig, "context": context}
        self.namespace: str = namespace or own_namespace or "default"
        from kubernetes.client import ApiClient  # noqa: PLC0415 - see above

        self._client = ApiClient(self._configuration)

    def get_token(self) -> str | None:
        """Return the kubeconfig's bearer token, None when it authenticates in another way."""
        header = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
        scheme, _, token = str(header).partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def build_kubectl_command(self, *arguments: str) -> list[str]:
        """Return a kubectl command on the same namespace of the same cluster."""
        flags = {**self._kubectl_flags, "namespace": self.namespace}
        return ["kubectl", *(f"--{flag}={value}" for flag, value in flags.items() if value), *arguments]

    def list_tasks(self, *, all_namespaces: bool = False) -> list[Object]:
        """Return the tasks of the namespace, or of all namespaces."""
        return self._list_tasks(all_namespaces)[0]

    def get_task(self, name: str) -> Object:
        """Return one task."""
        return self.get(names.PLURAL, name)

    def create_task(self, manifest: Object) -> Object:
        """Create a task."""
        return self.create(names.PLURAL, manifest)

    def get(self, plural: str, name: str) -> Object:
        """Return a task, a Job, or an object of the core API group such as one of the `pods`."""
        return self._request_json("GET", Request("get", plural, self.namespace, name))

    def create(self, plural: str, manifest: Object) -> Object:
        """Create a task, or an object of the core API group."""
        request = Request("create", plural, self.namespace, manifest["metadata"].get("name"))
        return self._request_json("POST", request, body=manifest)

    def delete_pod(self, name: str) -> None:
        """Delete a pod."""
        self._request_json("DELETE", Request("delete", "pods", self.namespace, name))

    def list_pod_events(self, pod: Object) -> list[Object]:
        """Return the events of a pod."""
        query = {"fieldSelector": f"involvedObject.uid={pod['metadata']['uid']}"}
        events: list[Object] = self._request_json("GET", Request("list", "events", self.namespace), query)["items"]
        return events

    def delete_task(self, task: Object) -> None:
        """Delete this task with its Job and pods, but no later one of the same name."""
        body = {"preconditions": {"uid": task["metadata"]["uid"]}, "propagationPolicy": "Background"}
        self._request_json(
            "DELETE", Request("delete", names.PLURAL, self.namespace, task["metadata"]["name"]), body=body
        )

    def get_newest_pod(self, task: Object) -> Object | None:
        """Return the pod of the latest attempt, of several nodes that of the first, None without one."""
        request = Request("list", "pods", self.namespace)
        query = {"labelSelector": f"{names.TASK_UID_LABEL}={task['metadata']['uid']}"}
        pods = self._request_json("GET", request, query)["items"]
        return max(pods, key=_rank_pod, default=None)

    def stream_log(self, pod: str, *, follow: bool = False) -> Iterator[bytes]:
        """Yield the trainer's log in chunks."""
        request = Request("get", "pods", self.namespace, pod, "log")
        query = {"container": names.TRAINER_CONTAINER, "follow": str(follow).lower()}
        timeout = None if follow else _READ_SECONDS
        with _translate_client_errors(self._server):
            yield from self._send("GET", request, query, timeout=timeout).stream(2**16)

    def watch_tasks(self, *, all_namespaces: bool = False, pause: float = 1.0) -> Iterator[dict[str, Object]]:
        """Yield the tasks by uid, first as listed, then after every event; never ends by itself.

        A watch that ended is preceded by a new list, so that no change is missed.
        """
        lost_since: float | None = None
        has_listed = False
        while True:
            try:
                items, version = self._list_tasks(all_namespaces)
                tasks = {item["metadata"]["uid"]: item for item in items}
                lost_since, has_listed = None, True
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
                if not has_listed or time.monotonic() - lost_since > _MAX_OUTAGE_SECONDS:
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
        # The items of a list have neither apiVersion nor kind.
        return [{"apiVersion": names.API_VERSION, "kind": names.KIND, **item} for item in items], page["metadata"][
            "resourceVersion"
        ]

    def _watch_events(self, all_namespaces: bool, version: str) -> Iterator[Object]:
        """Yield the events after a resource version until the API server ends the watch."""
        request = Request("watch", names.PLURAL, None if all_namespaces else self.namespace)
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        with _translate_client_errors(self._server):
            rest = b""
            for chunk in self._send("GET", request, query, timeout=_WATCH_SECONDS + _READ_SECONDS).stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = parse_json(line)
                    if event["type"] == "ERROR":
                        raise build_response_error(
                            request, event["object"].get("code", 500), json.dumps(event["object"])
                        )
                    yield event

    def _request_json(
        self, method: str, request: Request, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Object:
        with _translate_client_errors(self._server):
            answer: Object = parse_json(self._send(method, request, query, body=body).data)
        return answer

    def _send(
        self,
        method: str,
        request: Request,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        timeout: float | None = _READ_SECONDS,
    ) -> Any:
        """Return the response of a successful request, not read yet, as urllib3's HTTPResponse.

        Raises
        ------
        CommandError
            For any other status.
        """
        parameters = {"namespace": request.namespace, "name": request.name if method != "POST" else None}
        path = (
            _API_PATHS.get(request.plural, _CORE_PATH)
            + ("/namespaces/{namespace}" if parameters["namespace"] else "")
            + f"/{request.plural}"
            + ("/{name}" if parameters["name"] else "")
            + (f"/{request.subresource}" if request.subresource else "")
        )
        serialized = self._client.param_serialize(
            method,
            path,
            path_params={key: value for key, value in parameters.items() if value},
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*serialized, _request_timeout=(_CONNECT_SECONDS, timeout)).response
        if not 200 <= response.status <= 299:
            raise build_response_error(request, response.status, response.data.decode("utf-8", "replace"))
        return response

    @property
    def _server(self) -> str:
        return str(self._configuration.host)


@contextmanager
def _translate_client_errors(server: str) -> Iterator[None]:
    """Turn the client's errors, of a request as of reading its response, into sentences."""
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - as in Cluster
    from urllib3.exceptions import HTTPError, SSLError  # noqa: PLC0415

    try:
        yield
    except ApiException as error:  # the client raises it for errors of TLS
        raise CommandError(_describe_tls_error(server, str(error.reason))) from None
    except SSLError as error:
        raise CommandError(_describe_tls_error(server, str(error))) from None
    except HTTPError as error:
        raise build_connection_error(server, _strip_object_names(error)) from None
    except UnicodeError:
        raise
    except ValueError:
        raise CommandError(f"{server} does not answer as an API server does: check --context") from None


def _describe_tls_error(server: str, cause: str) -> str:
    return f"no secure connection to the API server at {server}: {' '.join(cause.split())}"


def _strip_object_names(error: Exception) -> str:
    """Return the cause of a failed connection without the Python objects that urllib3 puts before it."""
    return str(error).rpartition(": ")[2].strip() or type(error).__name__


def _load_configuration(kubeconfig: str | None, context: str | None) -> tuple[Any, str | None]:
    """Return the client's configuration, and the namespace of its context or pod."""
    from kubernetes.client import Configuration  # noqa: PLC0415 - see above
    from kubernetes.config import ConfigException, load_incluster_config  # noqa: PLC0415
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    configuration = Configuration()
    configuration.retries = False  # the default retries four times, with a warning each
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT_DIR.exists()
    if not kubeconfig and not context and is_in_pod and not Path(path).expanduser().exists():
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


def _rank_pod(pod: Object) -> tuple[int, bool, str]:
    """Return a sort key: the restarts of its group, 0 without one; whether it is the first node's; its age."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    restarts = str(annotations.get(names.RESTART_COUNT_ANNOTATION, ""))
    is_first = annotations.get(names.NODE_RANK_ANNOTATION, "0") == "0"
    return int(restarts) if restarts.isdecimal() else 0, is_first, str(metadata["creationTimestamp"])
