"""The environment of a trainer's container: the operator's variables, the admin's for all trainers, and the task's. Pure."""

from collections.abc import Iterable, Iterator

from trainingtask_api import TrainingTask, names
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.settings import HubSettings, MLflowSettings, ProxySettings, Settings

# Asked directly in every cluster: this pod, Services, the API server, and the clouds' servers of a pod's credentials.
# The kubelet fills in the variable. httpx compares whole addresses only, so no address ranges.
_NEVER_PROXIED = (
    "localhost",
    "127.0.0.1",
    "$(KUBERNETES_SERVICE_HOST)",
    ".svc",
    ".cluster.local",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "metadata.google.internal",
)

# Beginnings of variables that lead requests to another address, make another one trusted, or load code.
_INTERCEPTING = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS"),
    *("SSL_CERT_", "SSLKEYLOGFILE", "OPENSSL_", "LD_", "PYTHON", "HOME"),
)


def build_environment(
    task: TrainingTask, settings: Settings, image: str, own_variables: Iterable[Object]
) -> list[Object]:
    """Return the variables: of several with one name the task's, before the admin's, before the operator's."""
    variables: list[Object] = [
        *_iterate_own(image),
        *own_variables,
        build_variable(names.ENV_ALLOW_PRIVATE_REDIRECTS, str(settings.allow_private_redirects).lower()),
        *_iterate_hub(settings.hub),
        *_iterate_proxy(settings.proxy),
        *_iterate_ca_bundle(settings),
        *_iterate_mlflow(task, settings.tracking.mlflow),
        *(build_variable(variable.name, variable.value) for variable in settings.env),
        *(_secret(env.name, env.secret_key_ref.name, env.secret_key_ref.key) for env in task.spec.env or ()),
    ]
    return list({variable["name"]: variable for variable in variables}.values())


def build_environment_sources(settings: Settings) -> list[Object]:
    """Return the Secrets and ConfigMaps whose keys are variables; a namespace may be without them."""
    sources = (source.model_dump(by_alias=True, exclude_none=True) for source in settings.env_from)
    return [{kind: reference | {"optional": True} for kind, reference in source.items()} for source in sources]


def build_variable(name: str, value: str) -> Object:
    """Return the variable with this value."""
    return {"name": name, "value": value}


def build_field_variable(name: str, path: str) -> Object:
    """Return the variable that holds a field of its own pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _secret(name: str, secret: str, key: str, **optional: bool) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **optional}}}


def _iterate_own(image: str) -> Iterator[Object]:
    yield build_field_variable(names.ENV_POD_NAME, "metadata.name")
    yield build_field_variable(names.ENV_NODE_NAME, "spec.nodeName")
    yield build_variable(names.ENV_IMAGE, image)
    limit = {"containerName": names.TRAINER_CONTAINER, "resource": "limits.ephemeral-storage"}
    yield {"name": names.ENV_STORAGE_LIMIT, "valueFrom": {"resourceFieldRef": limit}}
    yield _secret(names.ENV_HISTORY_URL, names.HISTORY_SECRET, names.HISTORY_SECRET_KEY, optional=True)
    yield build_variable("HOME", "/tmp")  # noqa: S108
    yield build_variable("PYTHONUNBUFFERED", "1")


def _iterate_hub(hub: HubSettings) -> Iterator[Object]:
    yield build_variable("HF_HOME", names.HUB_CACHE_DIR if hub.cache.claim else "/tmp/huggingface")  # noqa: S108
    if hub.offline:
        yield build_variable("HF_HUB_OFFLINE", "1")
    if hub.endpoint:
        yield build_variable("HF_ENDPOINT", hub.endpoint)
    if hub.token_secret.name:
        yield _secret("HF_TOKEN", hub.token_secret.name, hub.token_secret.key, optional=True)


def _iterate_proxy(proxy: ProxySettings) -> Iterator[Object]:
    """Yield the variables in capitals alone: Python prefers small letters, which a task's `env` cannot have."""
    if not (proxy.http or proxy.https):
        return
    if proxy.http:
        yield build_variable("HTTP_PROXY", proxy.http)
    if proxy.https:
        yield build_variable("HTTPS_PROXY", proxy.https)
    yield build_variable("NO_PROXY", ",".join([*_NEVER_PROXIED, *proxy.no_proxy]))


def _iterate_ca_bundle(settings: Settings) -> Iterator[Object]:
    if settings.ca_bundle.is_given:
        yield build_variable("SSL_CERT_FILE", names.CA_BUNDLE_FILE)  # httpx, huggingface_hub, obstore
        yield build_variable(
            "REQUESTS_CA_BUNDLE", names.CA_BUNDLE_FILE
        )  # requests, as datasets and users' code have it


def _iterate_mlflow(task: TrainingTask, mlflow: MLflowSettings) -> Iterator[Object]:
    if not mlflow.uri:
        return
    yield build_variable(names.ENV_MLFLOW_URI, mlflow.uri)
    if mlflow.experiment:
        yield build_variable(names.ENV_MLFLOW_EXPERIMENT, mlflow.experiment)
    if mlflow.secret and _is_sent_to(task, mlflow.uri):
        for key in (names.ENV_MLFLOW_TOKEN, names.ENV_MLFLOW_USERNAME, names.ENV_MLFLOW_PASSWORD):
            yield _secret(key, mlflow.secret, key, optional=True)


def _is_sent_to(task: TrainingTask, uri: str) -> bool:
    """Return whether the task, as it is written, reports to this server; its code can read the Secret all the same."""
    tracking = task.spec.tracking and task.spec.tracking.mlflow
    is_same = not (tracking and tracking.uri) or tracking.uri.rstrip("/") == uri.rstrip("/")
    return is_same and not any(env.name.startswith(_INTERCEPTING) for env in task.spec.env or ())
