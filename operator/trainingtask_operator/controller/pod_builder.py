"""The pod template of a task's Job or JobSet, from the task and the admin's settings. Pure."""

from pathlib import PurePosixPath

from pydantic_core import to_json

from trainingtask_api import Device, TrainingTask, names
from trainingtask_operator.controller.pod_environment import build_environment, build_environment_sources
from trainingtask_operator.kube_objects import Object, select_inherited
from trainingtask_operator.settings import CaBundle, DeviceSettings, Settings, get_device_settings

GRACE_PERIOD_SECONDS = 60
DEFAULT_CONTAINER_ANNOTATION = "kubectl.kubernetes.io/default-container"

SHARED_MEMORY_MIB_PER_GPU = 256  # for NCCL, where GPUs cannot reach each other's memory


_MANAGED_BY = {"app.kubernetes.io/managed-by": "trainingtask-operator"}


def build_labels(task: TrainingTask) -> dict[str, str]:
    """Return the labels by which a task's Job and pods are found."""
    return {
        **_MANAGED_BY,
        names.TASK_NAME_LABEL: task.metadata.name,
        names.TASK_UID_LABEL: task.metadata.uid or "",
    }


def build_pod_template(task: TrainingTask, settings: Settings, own_variables: list[Object]) -> Object:
    """Return the template of the task's pods.

    Parameters
    ----------
    task, settings
        The task, and the admin's settings.
    own_variables
        Variables that depend on the kind of the pods' owner.
    """
    device, prefixes = get_device_settings(task, settings), settings.inherited_prefixes
    labels = select_inherited(task.metadata.labels, prefixes) | settings.pod_labels | device.pod_labels
    inherited = select_inherited(task.metadata.annotations, prefixes)
    annotations = inherited | settings.pod_annotations | device.pod_annotations
    return {
        "metadata": {
            "labels": labels | build_labels(task),
            "annotations": annotations | _build_own_annotations(task),
        },
        "spec": _build_pod_spec(task, settings, own_variables),
    }


def _build_own_annotations(task: TrainingTask) -> dict[str, str]:
    """Return the task as an annotation of the pod, which mounts it as its task file: no second object to keep in sync.

    The other annotation is for `kubectl logs` of a pod with injected containers.
    """
    content = {
        "apiVersion": task.api_version,
        "kind": task.kind,
        "metadata": task.metadata.model_dump(
            mode="json", by_alias=True, include={"name", "namespace", "uid", "creation_timestamp"}
        ),
        "spec": task.spec.to_json(),
    }
    return {names.TASK_ANNOTATION: to_json(content).decode(), DEFAULT_CONTAINER_ANNOTATION: names.TRAINER_CONTAINER}


def _build_pod_spec(task: TrainingTask, settings: Settings, own_variables: list[Object]) -> Object:
    device = get_device_settings(task, settings)
    resources = _build_resources(task, device)
    volumes, mounts = _build_volumes(task, settings, resources["limits"].get("ephemeral-storage"))
    image = task.spec.image or device.image
    spec: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": names.TRAINER_SERVICE_ACCOUNT,
        "terminationGracePeriodSeconds": GRACE_PERIOD_SECONDS,
        "enableServiceLinks": False,
        "securityContext": settings.pod_security_context,
        "containers": [
            {
                "name": names.TRAINER_CONTAINER,
                "image": image,
                "imagePullPolicy": settings.image_pull_policy,
                "command": ["python", "-P", "-m", "trainingtask_trainer", "run", names.TASK_FILE],
                "args": [
                    f"--dataset-dir={names.DATASET_DIR}",
                    f"--preprocessor-dir={names.PREPROCESSOR_DIR}",
                    f"--model-dir={names.MODEL_DIR}",
                    f"--code-dir={names.CODE_DIR}",
                    f"--output-dir={names.OUTPUT_DIR}",
                ],
                "workingDir": "/tmp",  # noqa: S108 - the only writable folder of a read-only root file system
                "env": build_environment(task, settings, image, own_variables),
                "envFrom": build_environment_sources(settings),
                "resources": resources,
                "volumeMounts": mounts,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": settings.container_security_context,
            }
        ],
        "volumes": volumes,
    }
    optional = {
        "imagePullSecrets": settings.image_pull_secrets,
        "nodeSelector": device.node_selector,
        "affinity": device.affinity,
        "tolerations": device.tolerations,
        "runtimeClassName": device.runtime_class_name,
        "schedulerName": device.scheduler_name,
        "topologySpreadConstraints": _build_spread(device),
        "resourceClaims": [claim.model_dump(by_alias=True) for claim in device.resource_claims],
        "priorityClassName": task.spec.run_policy.priority_class_name,
    }
    spec.update({field: value for field, value in optional.items() if value})
    if settings.host_users is not None:
        spec["hostUsers"] = settings.host_users
    return spec


def _build_spread(device: DeviceSettings) -> list[Object]:
    """Return the constraints; without a labelSelector, which Kubernetes would take for no pods, over all trainers."""
    return [{"labelSelector": {"matchLabels": _MANAGED_BY}, **each} for each in device.topology_spread_constraints]


def _build_resources(task: TrainingTask, device: DeviceSettings) -> Object:
    """Return requests equal to limits: pods that use more than they request are evicted first."""
    requested = task.spec.resources
    amounts: Object = {
        "cpu": (requested and requested.cpu) or device.resources.cpu,
        "memory": (requested and requested.memory) or device.resources.memory,
    }
    if storage := (requested and requested.storage) or device.resources.storage:
        amounts["ephemeral-storage"] = storage
    if task.spec.device is Device.GPU and device.resource_name:
        amounts[device.resource_name] = (requested and requested.gpus) or 1
    amounts = {resource: str(amount) for resource, amount in amounts.items()}
    resources: Object = {"requests": amounts, "limits": dict(amounts)}
    if device.resource_claims:
        resources["claims"] = [{"name": claim.name} for claim in device.resource_claims]
    return resources


def _build_volumes(task: TrainingTask, settings: Settings, storage: str | None) -> tuple[list[Object], list[Object]]:
    """Return the pod's volumes and the container's mounts.

    Parameters
    ----------
    task, settings
        The task, and the admin's settings.
    storage
        Size limit of each scratch folder; the container's limit of the same size bounds them all together.
    """
    scratch: Object = {"emptyDir": {"sizeLimit": storage} if storage else {}}
    task_file = {"path": "task.yaml", "fieldRef": {"fieldPath": f"metadata.annotations['{names.TASK_ANNOTATION}']"}}
    authority = {"key": names.HISTORY_CA_KEY, "path": names.HISTORY_CA_KEY}
    history_ca = {"secretName": names.HISTORY_SECRET, "items": [authority], "optional": True}
    volumes: list[Object] = [
        {"name": "task", "downwardAPI": {"items": [task_file]}},
        {"name": "tmp", **scratch},
        {"name": "history-ca", "secret": history_ca},
    ]
    mounts: list[Object] = [
        {"name": "history-ca", "mountPath": names.HISTORY_CA_DIR, "readOnly": True},
        {"name": "task", "mountPath": names.TASK_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    gpus = (task.spec.resources and task.spec.resources.gpus) or 1
    if gpus > 1:  # a container has 64 MiB otherwise
        size = f"{gpus * SHARED_MEMORY_MIB_PER_GPU}Mi"
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    _add_claims(task, volumes, mounts)
    if task.spec.output is None or task.spec.output.volume_claim is None:  # a scratch folder at the same path
        volumes.append({"name": "output", **scratch})
        mounts.append({"name": "output", "mountPath": names.OUTPUT_DIR})
    if task.spec.code is not None:
        volumes.append({"name": "code", "configMap": {"name": task.spec.code.config_map}})
        mounts.append({"name": "code", "mountPath": names.CODE_DIR, "readOnly": True})
    if bundle := _build_ca_bundle(settings.ca_bundle):
        volumes.append(bundle)
        mounts.append({"name": bundle["name"], "mountPath": names.CA_BUNDLE_DIR, "readOnly": True})
    if claim := settings.hub.cache.claim:
        volumes.append({"name": "hub-cache", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "hub-cache", "mountPath": names.HUB_CACHE_DIR})
    return [*volumes, *settings.extra_volumes], [*mounts, *settings.extra_volume_mounts]


def _build_ca_bundle(bundle: CaBundle) -> Object | None:
    """Return the volume of the admin's certificate authorities, if there are some."""
    items = [{"key": bundle.key, "path": PurePosixPath(names.CA_BUNDLE_FILE).name}]
    if bundle.config_map:
        return {"name": "ca-bundle", "configMap": {"name": bundle.config_map, "items": items}}
    if bundle.secret:
        return {"name": "ca-bundle", "secret": {"secretName": bundle.secret, "items": items}}
    return None


def _add_claims(task: TrainingTask, volumes: list[Object], mounts: list[Object]) -> None:
    """Add the volume claims that the spec names; a claim that is used twice is one volume."""
    claims: list[tuple[str, str | None, bool]] = [  # mount path, claim, whether it is read-only
        (names.DATASET_DIR, task.spec.dataset.volume_claim, True),
        (names.PREPROCESSOR_DIR, task.spec.preprocessor.volume_claim if task.spec.preprocessor else None, True),
        (names.MODEL_DIR, task.spec.model.volume_claim, True),
        (names.OUTPUT_DIR, task.spec.output.volume_claim if task.spec.output else None, False),
    ]
    read_only = {claim: all(ro for _, other, ro in claims if other == claim) for _, claim, _ in claims if claim}
    volume_of = {claim: f"claim-{index}" for index, claim in enumerate(read_only)}
    for claim, volume in volume_of.items():
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only[claim]}})
    for path, mounted, mount_read_only in claims:
        if mounted:
            mounts.append({"name": volume_of[mounted], "mountPath": path, "readOnly": mount_read_only})
