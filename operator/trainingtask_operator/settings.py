"""The operator's settings file, written by the cluster's admin: images, devices, profiles, namespaces, retention."""

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from trainingtask_api import Device, TrainingTask, names
from trainingtask_api.tracking import MLflowExperiment, MLflowUri

SETTINGS_VARIABLE = "TRAININGTASK_SETTINGS"

# Those of the "restricted" Pod Security Standard. fsGroup lets the image's user write to a freshly provisioned volume.
POD_SECURITY_CONTEXT = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class _Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class DefaultResources(_Section):
    """Resources of a trainer whose task names none."""

    cpu: str | int | float
    memory: str
    storage: str = Field(
        "", description="Local disk; '' sets neither request nor limit, for nodes that do not measure it."
    )


class ResourceClaim(_Section):
    """A claim on devices of dynamic resource allocation, which each pod gets from a template in its namespace."""

    name: str
    resource_claim_template_name: str


class DeviceSettings(_Section):
    """Image, node placement and resources of the trainers on one device."""

    image: str
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] = {}
    tolerations: list[dict[str, Any]] = []
    runtime_class_name: str = ""
    scheduler_name: str = ""
    topology_spread_constraints: list[dict[str, Any]] = []
    resource_name: str = Field(
        "nvidia.com/gpu", description="Extended resource of a GPU, '' where a claim stands for it; unused for the CPU."
    )
    resource_claims: list[ResourceClaim] = []
    resources: DefaultResources
    pod_labels: dict[str, str] = {}
    pod_annotations: dict[str, str] = {}


class DeviceProfile(DeviceSettings):
    """An alternative to a device's default settings: another make of GPU, a slice of one, larger nodes."""

    device: Device


class SecretKey(_Section):
    """A key of a Secret in each task's namespace; without a name there is none."""

    name: str = ""
    key: str = "token"


class HubCache(_Section):
    """The claim in each task's namespace that keeps downloads for all its trainers; '' for a folder per pod."""

    claim: str = ""


class HubSettings(_Section):
    """Access to the hub of models and data sets."""

    offline: bool = False
    endpoint: str = Field("", description="Address of a mirror; '' is the public hub.")
    token_secret: SecretKey = SecretKey()
    cache: HubCache = HubCache()


class EnvironmentVariable(_Section):
    """A variable of all trainers."""

    name: str
    value: str


class ObjectReference(_Section):
    """An object in each task's namespace."""

    name: str


class EnvironmentSource(_Section):
    """A Secret or a ConfigMap whose keys are variables of all trainers of its namespace."""

    secret_ref: ObjectReference | None = None
    config_map_ref: ObjectReference | None = None


class ProxySettings(_Section):
    """The proxies of trainers; '' for none."""

    http: str = ""
    https: str = ""
    no_proxy: list[str] = Field([], description="Hosts that are asked directly, beside those of the cluster.")


class CaBundle(_Section):
    """The certificate authorities that trainers trust, in each task's namespace; without a name those of the image."""

    config_map: str = ""
    secret: str = ""
    key: str = "ca.crt"

    @property
    def is_given(self) -> bool:
        """Return whether there is one."""
        return bool(self.config_map or self.secret)


class KueueSettings(_Section):
    """Kueue in front of the Jobs."""

    enabled: bool = Field(False, description="Watch Kueue's Workloads, and suspend queued tasks by them.")


class MLflowSettings(_Section):
    """The MLflow server of tasks that name no other; '' for none."""

    uri: MLflowUri | Literal[""] = ""
    experiment: MLflowExperiment | Literal[""] = Field("", description="'' for one named as the task's namespace.")
    secret: str = Field("", description="Secret in each task's namespace, whose keys are MLflow's variables.")


class TrackingSettings(_Section):
    """Experiment trackers, beside the history."""

    mlflow: MLflowSettings = MLflowSettings()


class HistorySettings(_Section):
    """Retention of runs in the history."""

    retention_days: int = Field(0, ge=0, description="Days after its end that a run is deleted; 0: never.")


class Settings(_Section):
    """The operator's settings file."""

    namespaces: list[str] = Field(
        description="Namespaces that are prepared for trainers: service account, history Secret."
    )
    namespaced: bool = Field(
        False, description="Whether the operator has rights, and watches, in these namespaces alone."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[dict[str, str]] = []
    hub: HubSettings = HubSettings()
    env: list[EnvironmentVariable] = []
    env_from: list[EnvironmentSource] = []
    pod_labels: dict[str, str] = {}
    pod_annotations: dict[str, str] = {}
    inherited_prefixes: list[str] = Field([], description="Labels and annotations of a task that its pods get as well.")
    pod_security_context: dict[str, Any] = POD_SECURITY_CONTEXT
    container_security_context: dict[str, Any] = CONTAINER_SECURITY_CONTEXT
    host_users: bool | None = Field(None, description="false: user namespaces; None leaves it to the platform.")
    extra_volumes: list[dict[str, Any]] = []
    extra_volume_mounts: list[dict[str, Any]] = []
    proxy: ProxySettings = ProxySettings()
    ca_bundle: CaBundle = CaBundle()
    tracking: TrackingSettings = TrackingSettings()
    allow_private_redirects: bool = Field(False, description="Let https:// sources redirect to private addresses.")
    kueue: KueueSettings = KueueSettings()
    history: HistorySettings = HistorySettings()
    devices: dict[Device, DeviceSettings] = Field(description="Settings of tasks without a profile, by device.")
    profiles: dict[str, DeviceProfile] = Field({}, description="Settings of tasks by their resources.profile.")

    @property
    def watched_namespaces(self) -> list[str | None]:
        """Return where the operator watches; None stands for all namespaces."""
        return [*self.namespaces] if self.namespaced else [None]


def get_device_settings(task: TrainingTask, settings: Settings) -> DeviceSettings:
    """Return the settings of the task's profile, or of its device's default.

    Raises
    ------
    KeyError
        When the cluster does not offer it.
    """
    profile = task.spec.resources and task.spec.resources.profile
    return settings.profiles[profile] if profile else settings.devices[task.spec.device]


def load_settings(path: str | None = None) -> Settings:
    """Read the settings file at `path`, or at the path in the environment.

    Raises
    ------
    OSError
        When the file cannot be read.
    pydantic.ValidationError
        When it does not hold valid settings.
    """
    file = Path(path or os.environ[SETTINGS_VARIABLE])
    return Settings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def load_role_passwords(namespaces: list[str]) -> dict[str, str | None]:
    """Return the passwords of the namespaces' database roles, from the folder that the environment names.

    A namespace without a file there has None: its role is left unchanged, or created without a password.
    """
    folder = Path(os.environ.get(names.ENV_HISTORY_PASSWORDS, os.devnull))
    files = {namespace: folder / namespace for namespace in namespaces}
    return {name: file.read_text(encoding="utf-8").strip() if file.is_file() else None for name, file in files.items()}
