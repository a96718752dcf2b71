"""A task and the settings -> the Job that trains it. Pure: no cluster, no clock."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from trainingtask_api import Device, ExitCode, TrainingTask, names
from trainingtask_operator.settings import DeviceSettings, Settings, device_of

Manifest = dict[str, Any]

# The image's unprivileged user; fsGroup lets it write to a freshly provisioned volume.
TRAINER_USER = 1000
GRACE_PERIOD_SECONDS = 60


def job_name(task: TrainingTask) -> str:
    """Return the name of the task's Job: readable, and unique for the uid, so that a re-created task gets its own.

    At most 55 characters, so that the names of its pods (`<job>-<index>-<random>`) are not cut.
    """
    digest = hashlib.sha256((task.metadata.uid or "").encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9-]", "-", task.metadata.name)[:44].strip("-")
    return f"{readable}-{digest}"


def controlled_by(item: Mapping[str, Any], uid: str) -> bool:
    """Tell whether the object with this uid controls `item`. Labels are anybody's to set; this is not so easily so."""
    owners = item["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def labels_of(task: TrainingTask) -> dict[str, str]:
    """Return the labels by which a task's Job and pods are found."""
    return {
        "app.kubernetes.io/managed-by": "trainingtask-operator",
        names.TASK_NAME_LABEL: task.metadata.name,
        names.TASK_UID_LABEL: task.metadata.uid or "",
    }


def build_job(task: TrainingTask, settings: Settings) -> Manifest:
    """Return the Job that trains `task`.

    One index with a backoff limit of its own: the Job controller then counts the failures on each pod, which tells
    the trainer which attempt it is without asking anybody.
    """
    policy = task.spec.run_policy
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
        "backoffLimitPerIndex": policy.retries,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": names.TRAINER_CONTAINER,
                        "operator": "In",
                        "values": [int(ExitCode.USER_ERROR)],
                    },
                },
                # An evicted or preempted pod is not the task's own failure: it is replaced and does not count.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        # Kueue wants to find a Job of its queues suspended, and starts it when there is quota.
        "suspend": policy.suspend or policy.queue_name is not None,
        "template": {
            "metadata": {"labels": labels_of(task), "annotations": _task_annotation(task)},
            "spec": _pod_spec(task, settings),
        },
    }
    if policy.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = policy.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(task),
            "namespace": task.metadata.namespace,
            "labels": labels_of(task) | ({names.QUEUE_LABEL: policy.queue_name} if policy.queue_name else {}),
            "ownerReferences": [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": task.metadata.name,
                    "uid": task.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": spec,
    }


def _task_annotation(task: TrainingTask) -> dict[str, str]:
    """Return the task as an annotation of the pod, which mounts it as its task file: no second object to keep in step."""
    content = {
        "apiVersion": task.api_version,
        "kind": task.kind,
        "metadata": task.metadata.model_dump(
            mode="json", by_alias=True, include={"name", "namespace", "uid", "creation_timestamp"}
        ),
        "spec": task.spec.to_json(),
    }
    return {names.TASK_ANNOTATION: to_json(content).decode()}


def _pod_spec(task: TrainingTask, settings: Settings) -> Manifest:
    device = device_of(task, settings)
    resources = _resources(task, device)
    volumes, mounts = _volumes(task, resources["limits"].get("ephemeral-storage"))
    spec: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": names.TRAINER_SERVICE_ACCOUNT,
        "terminationGracePeriodSeconds": GRACE_PERIOD_SECONDS,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": TRAINER_USER,
            "runAsGroup": TRAINER_USER,
            "fsGroup": TRAINER_USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": names.TRAINER_CONTAINER,
                "image": task.spec.image or device.image,
                "imagePullPolicy": settings.image_pull_policy,
                "command": ["python", "-P", "-m", "trainingtask_trainer", "run", names.TASK_FILE],
                "args": [
                    f"--dataset-dir={names.DATASET_DIR}",
                    f"--preprocessor-dir={names.PREPROCESSOR_DIR}",
                    f"--model-dir={names.MODEL_DIR}",
                    f"--code-dir={names.CODE_DIR}",
                    f"--output-dir={names.OUTPUT_DIR}",
                ],
                "workingDir": "/tmp",  # noqa: S108 - the only place a read-only root file system leaves writable
                "env": _environment(task, settings),
                "resources": resources,
                "volumeMounts": mounts,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
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
        "priorityClassName": task.spec.run_policy.priority_class_name,
    }
    spec.update({field: value for field, value in optional.items() if value})
    return spec


def _resources(task: TrainingTask, device: DeviceSettings) -> Manifest:
    """Return requests equal to limits: a trainer that is promised less than it takes is the first to be evicted."""
    wanted = task.spec.resources
    amounts: Manifest = {
        "cpu": (wanted and wanted.cpu) or device.resources.cpu,
        "memory": (wanted and wanted.memory) or device.resources.memory,
    }
    if storage := (wanted and wanted.storage) or device.resources.storage:
        amounts["ephemeral-storage"] = storage
    if task.spec.device is Device.GPU:
        amounts[device.resource_name] = (wanted and wanted.gpus) or 1
    amounts = {resource: str(amount) for resource, amount in amounts.items()}
    return {"requests": amounts, "limits": dict(amounts)}


def _environment(task: TrainingTask, settings: Settings) -> list[Manifest]:
    def field(name: str, path: str) -> Manifest:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    image = task.spec.image or device_of(task, settings).image
    environment: list[Manifest] = [
        field(names.ENV_POD_NAME, "metadata.name"),
        field(names.ENV_NODE_NAME, "spec.nodeName"),
        field(names.ENV_FAILURE_COUNT, f"metadata.annotations['{names.FAILURE_COUNT_ANNOTATION}']"),
        field(names.ENV_IGNORED_FAILURE_COUNT, f"metadata.annotations['{names.IGNORED_FAILURE_COUNT_ANNOTATION}']"),
        {"name": names.ENV_IMAGE, "value": image},
        {
            "name": names.ENV_HISTORY_URL,
            "valueFrom": {
                "secretKeyRef": {"name": names.HISTORY_SECRET, "key": names.HISTORY_SECRET_KEY, "optional": True}
            },
        },
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        {"name": "HF_HOME", "value": "/tmp/huggingface"},  # noqa: S108
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]
    if settings.hub.offline:
        environment.append({"name": "HF_HUB_OFFLINE", "value": "1"})
    for secret in task.spec.env or []:
        reference = {"name": secret.secret_key_ref.name, "key": secret.secret_key_ref.key}
        environment.append({"name": secret.name, "valueFrom": {"secretKeyRef": reference}})
    return environment


def _volumes(task: TrainingTask, storage: str | None) -> tuple[list[Manifest], list[Manifest]]:
    """Return the pod's volumes and the container's mounts; a claim that is used twice is one volume.

    Parameters
    ----------
    task
        The task.
    storage
        Size limit of each scratch folder; the container's limit of the same size bounds them all together.
    """
    scratch: Manifest = {"emptyDir": {"sizeLimit": storage} if storage else {}}
    wanted: list[tuple[str, str | None, bool]] = [
        (names.DATASET_DIR, task.spec.dataset.volume_claim, True),
        (names.PREPROCESSOR_DIR, task.spec.preprocessor.volume_claim if task.spec.preprocessor else None, True),
        (names.MODEL_DIR, task.spec.model.volume_claim, True),
        (names.OUTPUT_DIR, task.spec.output.volume_claim if task.spec.output else None, False),
    ]
    # Without a claim the output goes to a scratch folder: the trainer need not know.
    volumes: list[Manifest] = [
        {
            "name": "task",
            "downwardAPI": {
                "items": [
                    {"path": "task.yaml", "fieldRef": {"fieldPath": f"metadata.annotations['{names.TASK_ANNOTATION}']"}}
                ]
            },
        },
        {"name": "tmp", **scratch},
        {
            "name": "history-ca",
            "secret": {
                "secretName": names.HISTORY_SECRET,
                "items": [{"key": names.HISTORY_CA_KEY, "path": names.HISTORY_CA_KEY}],
                "optional": True,
            },
        },
    ]
    mounts: list[Manifest] = [
        {"name": "history-ca", "mountPath": names.HISTORY_CA_DIR, "readOnly": True},
        {"name": "task", "mountPath": names.TASK_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    read_only = {claim: all(ro for _, other, ro in wanted if other == claim) for _, claim, _ in wanted if claim}
    volume_of = {claim: f"claim-{index}" for index, claim in enumerate(read_only)}
    for claim, volume in volume_of.items():
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only[claim]}})
    for path, mounted, mount_read_only in wanted:
        if mounted:
            mounts.append({"name": volume_of[mounted], "mountPath": path, "readOnly": mount_read_only})
    if task.spec.output is None:
        volumes.append({"name": "output", **scratch})
        mounts.append({"name": "output", "mountPath": names.OUTPUT_DIR})
    if task.spec.code is not None:
        volumes.append({"name": "code", "configMap": {"name": task.spec.code.config_map}})
        mounts.append({"name": "code", "mountPath": names.CODE_DIR, "readOnly": True})
    return volumes, mounts
