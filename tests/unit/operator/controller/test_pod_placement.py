"""Scheduler, spread, devices and volumes of trainer pods, as the admin's settings say."""

from typing import Any

import pytest

from support import specs
from trainingtask_api import TrainingTask
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.controller.jobset_builder import build_jobset
from trainingtask_operator.settings import Settings

HOST = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}


def build_pod(settings: Settings, large: dict[str, Any] | None = None, **resources: Any) -> dict[str, Any]:
    """Return the template of the pods of a task on a GPU, where a profile `large` is offered."""
    offered = {"large": {"device": "gpu", "image": "i", "resources": {"cpu": 1, "memory": "1Gi"}, **(large or {})}}
    chosen = Settings.model_validate(settings.model_dump(by_alias=True) | {"profiles": offered})
    manifest = specs.task("t", specs.changed(specs.TRANSFORMER, device="gpu", resources=resources))
    manifest["metadata"]["uid"] = "u"
    task = TrainingTask.model_validate(manifest)
    if task.spec.node_count > 1:
        (job,) = build_jobset(task, chosen)["spec"]["replicatedJobs"]
        pod: dict[str, Any] = job["template"]["spec"]["template"]
    else:
        pod = build_job(task, chosen)["spec"]["template"]
    return pod


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_profile_names_the_scheduler_and_spreads_trainers(settings: Settings, nodes: int) -> None:
    own = HOST | {"labelSelector": {"matchLabels": {"team": "a"}}}
    profile = {"schedulerName": "volcano", "topologySpreadConstraints": [HOST, own]}
    pod = build_pod(settings, profile, profile="large", nodes=nodes)
    assert pod["spec"]["schedulerName"] == "volcano"
    first, second = pod["spec"]["topologySpreadConstraints"]
    assert first["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (first | HOST, second) == (first, own)


def test_claims_of_devices_stand_for_the_extended_resource(settings: Settings) -> None:
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    profile = {"resourceName": "", "resourceClaims": claims}
    pod = build_pod(settings, profile, profile="large", gpus=2)["spec"]
    resources = pod["containers"][0]["resources"]
    assert pod["resourceClaims"] == claims
    assert resources["claims"] == [{"name": "gpus"}]
    assert resources["limits"] == resources["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert "shared-memory" in [volume["name"] for volume in pod["volumes"]]


def test_the_admins_volumes_follow_the_operators(settings: Settings) -> None:
    volume = {"name": "roots", "configMap": {"name": "roots"}}
    mount = {"name": "roots", "mountPath": "/etc/roots", "readOnly": True}
    more = settings.model_copy(update={"extra_volumes": [volume], "extra_volume_mounts": [mount]})
    before, after = build_pod(settings)["spec"], build_pod(more)["spec"]
    assert after["volumes"] == [*before["volumes"], volume]
    assert after["containers"][0]["volumeMounts"] == [*before["containers"][0]["volumeMounts"], mount]


@pytest.mark.parametrize("value", [True, False])
def test_user_namespaces_are_left_to_the_platform_unless_set(settings: Settings, value: bool) -> None:
    assert build_pod(settings.model_copy(update={"host_users": value}))["spec"]["hostUsers"] is value
    pod = build_pod(settings)["spec"]
    optional = {"hostUsers", "schedulerName", "topologySpreadConstraints", "resourceClaims"}
    assert not optional & pod.keys()
    assert "claims" not in pod["containers"][0]["resources"]
