"""The variables of a trainer's container, and which writer's win."""

from typing import Any

import pytest

from support import specs
from trainingtask_api import TrainingTask, names
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.controller.pod_builder import DEFAULT_CONTAINER_ANNOTATION
from trainingtask_operator.settings import Settings


def build_pod(settings: Settings, changes: dict[str, Any], **task: Any) -> Any:
    """Return the pod template of a task under these changes of the settings."""
    changed = Settings.model_validate(settings.model_dump(by_alias=True) | changes)
    metadata = task.pop("metadata", {})
    manifest = specs.task("a-task", specs.changed(specs.CLASSICAL, **task))
    manifest["metadata"] |= {"uid": "uid-1", **metadata}
    return build_job(TrainingTask.model_validate(manifest), changed)["spec"]["template"]


def build_container(settings: Settings, changes: dict[str, Any], **task: Any) -> Any:
    return build_pod(settings, changes, **task)["spec"]["containers"][0]


def variables_of(container: Any) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def secret_key(name: str, key: str, **optional: bool) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key, **optional}}


def test_by_default_no_proxy_hub_or_authority_is_set(settings: Settings) -> None:
    variables = variables_of(build_container(settings, {}))
    assert set(variables) == {
        names.ENV_POD_NAME, names.ENV_NODE_NAME, names.ENV_FAILURE_COUNT, names.ENV_IGNORED_FAILURE_COUNT,
        names.ENV_IMAGE, names.ENV_STORAGE_LIMIT, names.ENV_HISTORY_URL, names.ENV_ALLOW_PRIVATE_REDIRECTS,
        "HOME", "HF_HOME", "PYTHONUNBUFFERED",
    }  # fmt: skip
    limit = {"containerName": names.TRAINER_CONTAINER, "resource": "limits.ephemeral-storage"}
    assert variables[names.ENV_STORAGE_LIMIT] == {"resourceFieldRef": limit}
    assert variables["HF_HOME"].startswith(variables["HOME"])


def test_a_tasks_variable_wins_over_the_admins(settings: Settings) -> None:
    settings_changes = {
        "env": [{"name": "AWS_REGION", "value": "eu-west-1"}, {"name": "HF_TOKEN", "value": "admin"}],
        "hub": {"tokenSecret": {"name": "hub", "key": "token"}},
    }
    env = [{"name": "HF_TOKEN", "secretKeyRef": {"name": "mine", "key": "hf"}}]
    container = build_container(settings, settings_changes, env=env)
    variables = variables_of(container)
    assert (variables["AWS_REGION"], variables["HF_TOKEN"]) == ("eu-west-1", secret_key("mine", "hf"))
    assert len(variables) == len(container["env"])


def test_a_namespace_may_be_without_the_admins_secrets(settings: Settings) -> None:
    sources = [{"secretRef": {"name": "store"}}, {"configMapRef": {"name": "store-settings"}}]
    container = build_container(settings, {"envFrom": sources, "hub": {"tokenSecret": {"name": "hub", "key": "token"}}})
    assert container["envFrom"] == [
        {"secretRef": {"name": "store", "optional": True}},
        {"configMapRef": {"name": "store-settings", "optional": True}},
    ]
    assert variables_of(container)["HF_TOKEN"] == secret_key("hub", "token", optional=True)


def test_a_secret_of_variables_cannot_allow_private_redirects(settings: Settings) -> None:
    for allowed, value in ((False, "false"), (True, "true")):
        variables = variables_of(build_container(settings, {"allowPrivateRedirects": allowed}))
        assert variables[names.ENV_ALLOW_PRIVATE_REDIRECTS] == value


def test_a_mirror_and_a_shared_cache_are_the_hubs(settings: Settings) -> None:
    hub = {"endpoint": "https://hub.example.com", "cache": {"claim": "downloads"}}
    pod = build_pod(settings, {"hub": hub})["spec"]
    variables = variables_of(pod["containers"][0])
    assert (variables["HF_ENDPOINT"], variables["HF_HOME"]) == ("https://hub.example.com", names.HUB_CACHE_DIR)
    assert {"name": "hub-cache", "persistentVolumeClaim": {"claimName": "downloads"}} in pod["volumes"]
    assert {"name": "hub-cache", "mountPath": names.HUB_CACHE_DIR} in pod["containers"][0]["volumeMounts"]


def test_the_cluster_is_never_asked_through_a_proxy(settings: Settings) -> None:
    proxy = {"https": "http://proxy.example.com:3128", "noProxy": [".example.com"]}
    variables = variables_of(build_container(settings, {"proxy": proxy}))
    assert variables["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert "HTTP_PROXY" not in variables
    excluded = variables["NO_PROXY"].split(",")
    assert {"$(KUBERNETES_SERVICE_HOST)", ".svc", "169.254.169.254", ".example.com"} <= set(excluded)


MLFLOW = {"tracking": {"mlflow": {"uri": "https://mlflow.example.com/", "experiment": "All", "secret": "mlflow"}}}


def test_the_admins_mlflow_server_is_given_with_its_credentials(settings: Settings) -> None:
    variables = variables_of(build_container(settings, MLFLOW, tracking={"mlflow": {"experiment": "Mine"}}))
    assert (variables[names.ENV_MLFLOW_URI], variables[names.ENV_MLFLOW_EXPERIMENT]) == (
        "https://mlflow.example.com/",
        "All",
    )
    for key in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert variables[key] == secret_key("mlflow", key, optional=True)


@pytest.mark.parametrize(
    ("uri", "is_given"),
    [
        ("https://mlflow.example.com", True),
        ("http://mlflow.example.com/", False),
        ("https://mlflow.example.com:8443/", False),
        ("https://mlflow.example.com.attacker.example/", False),
    ],
)
def test_the_admins_credentials_go_to_the_admins_server_alone(settings: Settings, uri: str, is_given: bool) -> None:
    variables = variables_of(build_container(settings, MLFLOW, tracking={"mlflow": {"uri": uri}}))
    assert ("MLFLOW_TRACKING_TOKEN" in variables) == is_given


@pytest.mark.parametrize(
    ("name", "is_given"),
    [
        *((name, False) for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE")),
        *((name, False) for name in ("LD_PRELOAD", "PYTHONPATH", "OPENSSL_CONF", "HOSTALIASES", "HOME")),
        *((name, True) for name in ("HF_TOKEN", "AWS_ENDPOINT_URL")),
    ],
)
def test_no_task_that_intercepts_requests_gets_the_admins_credentials(
    settings: Settings, name: str, is_given: bool
) -> None:
    env = [{"name": name, "secretKeyRef": {"name": "mine", "key": "a"}}]
    assert ("MLFLOW_TRACKING_TOKEN" in variables_of(build_container(settings, MLFLOW, env=env))) == is_given


def test_a_tasks_own_credentials_of_mlflow_win(settings: Settings) -> None:
    env = [{"name": "MLFLOW_TRACKING_TOKEN", "secretKeyRef": {"name": "mine", "key": "token"}}]
    for uri in ("https://mlflow.example.com", "https://other.example.com"):
        variables = variables_of(build_container(settings, MLFLOW, tracking={"mlflow": {"uri": uri}}, env=env))
        assert variables["MLFLOW_TRACKING_TOKEN"] == secret_key("mine", "token")


@pytest.mark.parametrize(
    ("bundle", "source"),
    [
        ({"configMap": "roots"}, {"configMap": {"name": "roots"}}),
        ({"secret": "roots", "key": "tls.pem"}, {"secret": {"secretName": "roots"}}),
    ],
)
def test_the_admins_authorities_are_mounted_read_only(settings: Settings, bundle: Any, source: Any) -> None:
    pod = build_pod(settings, {"caBundle": bundle})["spec"]
    ((kind, reference),) = source.items()
    items = [{"key": bundle.get("key", "ca.crt"), "path": "ca.crt"}]
    assert {"name": "ca-bundle", kind: reference | {"items": items}} in pod["volumes"]
    mount = {"name": "ca-bundle", "mountPath": names.CA_BUNDLE_DIR, "readOnly": True}
    assert mount in pod["containers"][0]["volumeMounts"]
    variables = variables_of(pod["containers"][0])
    assert variables["SSL_CERT_FILE"] == variables["REQUESTS_CA_BUNDLE"] == f"{names.CA_BUNDLE_DIR}/ca.crt"


def test_the_admins_security_contexts_replace_the_default(settings: Settings) -> None:
    contexts = {"podSecurityContext": {"runAsNonRoot": True}, "containerSecurityContext": {}}
    pod = build_pod(settings, contexts)["spec"]
    assert (pod["securityContext"], pod["containers"][0]["securityContext"]) == ({"runAsNonRoot": True}, {})


def test_a_pod_label_never_replaces_the_operators(settings: Settings) -> None:
    labels = {"azure.workload.identity/use": "true", names.TASK_UID_LABEL: "another"}
    found = build_pod(settings, {"podLabels": labels})["metadata"]["labels"]
    assert (found["azure.workload.identity/use"], found[names.TASK_UID_LABEL]) == ("true", "uid-1")


def test_pods_get_the_listed_labels_and_annotations_of_their_task(settings: Settings) -> None:
    own = {
        "example.com/team": "nlp",
        "cost-center": "7",
        "centre": "x",
        "cost.example.com/a": "b",
        names.TASK_UID_LABEL: "another",
        "job-name": "another",
    }
    changes = {
        "inheritedPrefixes": ["example.com/", "cost", "job", f"{names.GROUP}/"],
        "podAnnotations": {"example.com/team": "admin"},
    }
    found = build_pod(settings, changes, metadata={"labels": own, "annotations": own})["metadata"]
    assert (found["labels"]["example.com/team"], found["labels"]["cost-center"]) == ("nlp", "7")
    assert (found["annotations"]["example.com/team"], found["annotations"]["cost-center"]) == ("admin", "7")
    assert found["labels"][names.TASK_UID_LABEL] == "uid-1"
    for entries in found.values():
        assert not {"centre", "cost.example.com/a", "job-name"} & set(entries)
    found = build_pod(settings, {}, metadata={"labels": own, "annotations": own})["metadata"]
    assert set(found["annotations"]) == {names.TASK_ANNOTATION, DEFAULT_CONTAINER_ANNOTATION}
    assert found["annotations"][DEFAULT_CONTAINER_ANNOTATION] == names.TRAINER_CONTAINER
    assert "example.com/team" not in found["labels"]


def test_a_profiles_labels_and_annotations_win_over_those_of_all(settings: Settings) -> None:
    cpu = settings.model_dump(mode="json", by_alias=True)["devices"]["cpu"]
    profile = cpu | {"device": "cpu", "podLabels": {"pool": "large"}, "podAnnotations": {"a": "profile"}}
    changes = {"profiles": {"large": profile}, "podLabels": {"pool": "any", "b": "any"}, "podAnnotations": {"a": "any"}}
    found = build_pod(settings, changes, resources={"profile": "large"})["metadata"]
    assert (found["labels"]["pool"], found["labels"]["b"], found["annotations"]["a"]) == ("large", "any", "profile")
