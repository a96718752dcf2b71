import json
from typing import Any

import pytest

from support import specs
from trainingtask_api import TrainingTask, names
from trainingtask_operator.controller.job_builder import build_job, build_job_name
from trainingtask_operator.settings import Settings


def build(settings: Settings, spec: dict[str, Any], name: str = "my-task", uid: str = "uid-1") -> dict[str, Any]:
    manifest = specs.task(name, spec)
    manifest["metadata"]["uid"] = uid
    return build_job(TrainingTask.model_validate(manifest), settings)


def pod_of(job: dict[str, Any]) -> Any:
    return job["spec"]["template"]["spec"]


def container_of(job: dict[str, Any]) -> Any:
    return pod_of(job)["containers"][0]


def test_the_pod_mounts_the_task_it_trains(settings: Settings) -> None:
    job = build(settings, specs.TABLE)
    mounted = json.loads(job["spec"]["template"]["metadata"]["annotations"][names.TASK_ANNOTATION])
    task = TrainingTask.model_validate(mounted)
    assert task.spec == TrainingTask.model_validate(specs.task("x", specs.TABLE)).spec
    assert (task.metadata.name, task.metadata.uid) == ("my-task", "uid-1")
    assert container_of(job)["command"][-1] == f"{names.TASK_DIR}/task.yaml"


def test_the_trainer_imports_nothing_from_its_working_directory(settings: Settings) -> None:
    assert container_of(build(settings, specs.CLASSICAL))["command"][:2] == ["python", "-P"]


@pytest.mark.parametrize("name", ["a", "my-task", "x" * 63, "dots.in.it", "a" * 47 + ".b"])
def test_the_job_name_is_a_dns_label_with_room_for_the_index(name: str) -> None:
    manifest = specs.task(name, specs.CLASSICAL)
    manifest["metadata"]["uid"] = "u"
    made = build_job_name(TrainingTask.model_validate(manifest))
    assert len(f"{made}-0-") <= 58, "Kubernetes cuts a longer one in the names of the pods"
    assert made.replace("-", "").isalnum()
    assert made.islower()


def test_tasks_of_one_name_get_jobs_of_their_own(settings: Settings) -> None:
    first, second = (build(settings, specs.CLASSICAL, uid=uid)["metadata"]["name"] for uid in ("a", "b"))
    assert first != second


def test_the_task_owns_the_job(settings: Settings) -> None:
    (owner,) = build(settings, specs.CLASSICAL)["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)


def test_a_cpu_task_asks_for_no_gpu_and_for_no_gpu_node(settings: Settings) -> None:
    job = build(settings, specs.CLASSICAL)
    assert container_of(job)["image"] == "trainer:cpu"
    assert container_of(job)["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert not {"nodeSelector", "tolerations", "affinity", "runtimeClassName"} & set(pod_of(job))


def test_a_gpu_task_goes_where_the_settings_say(settings: Settings) -> None:
    job = build(settings, specs.changed(specs.TRANSFORMER, device="gpu", resources={"gpus": 2, "memory": "64Gi"}))
    assert container_of(job)["image"] == "trainer:gpu"
    wanted = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container_of(job)["resources"] == {"requests": wanted, "limits": wanted}
    assert pod_of(job)["nodeSelector"] == {"pool": "gpu"}
    assert pod_of(job)["affinity"] == {"nodeAffinity": {}}
    assert pod_of(job)["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod_of(job)["runtimeClassName"] == "nvidia"


def test_the_disk_is_bounded_as_the_task_or_the_device_says(settings: Settings) -> None:
    cpu = next(device for kind, device in settings.devices.items() if kind == "cpu")
    default = cpu.resources.model_copy(update={"storage": "10Gi"})
    bounded = settings.model_copy(update={"devices": {"cpu": cpu.model_copy(update={"resources": default})}})
    for spec, limit in (
        (specs.CLASSICAL, "10Gi"),
        (specs.changed(specs.CLASSICAL, resources={"storage": "1Gi"}), "1Gi"),
    ):
        job = build(bounded, spec)
        resources = container_of(job)["resources"]
        assert resources["requests"]["ephemeral-storage"] == resources["limits"]["ephemeral-storage"] == limit
        scratch = [volume["emptyDir"] for volume in pod_of(job)["volumes"] if "emptyDir" in volume]
        assert scratch == [{"sizeLimit": limit}] * 2


def test_a_task_bounds_its_disk_where_the_device_does_not(settings: Settings) -> None:
    unbounded = build(settings, specs.CLASSICAL)
    assert "ephemeral-storage" not in container_of(unbounded)["resources"]["limits"]
    bounded = build(settings, specs.changed(specs.CLASSICAL, resources={"storage": "1Gi"}))
    assert container_of(bounded)["resources"]["limits"]["ephemeral-storage"] == "1Gi"


def test_another_vendors_resource_is_asked_for_by_its_name(settings: Settings) -> None:
    gpu = next(device for kind, device in settings.devices.items() if kind == "gpu")
    other = settings.model_copy(update={"devices": {"gpu": gpu.model_copy(update={"resource_name": "amd.com/gpu"})}})
    job = build(other, specs.changed(specs.TRANSFORMER, device="gpu"))
    assert container_of(job)["resources"]["limits"]["amd.com/gpu"] == "1"


def test_a_profile_replaces_its_devices_default(settings: Settings) -> None:
    profile = {
        "device": "gpu",
        "image": "trainer:slice",
        "resourceName": "nvidia.com/mig-1g.5gb",
        "nodeSelector": {"a": "b"},
        "resources": {"cpu": "1", "memory": "2Gi"},
    }
    offered = Settings.model_validate(settings.model_dump() | {"profiles": {"slice": profile}})
    job = build(offered, specs.changed(specs.TRANSFORMER, device="gpu", resources={"profile": "slice"}))
    container, pod = container_of(job), pod_of(job)
    assert container["image"] == "trainer:slice"
    assert {"name": names.ENV_IMAGE, "value": "trainer:slice"} in container["env"]
    assert container["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == "1"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert (pod["nodeSelector"], "tolerations" in pod, "runtimeClassName" in pod) == ({"a": "b"}, False, False)


def test_a_queued_job_is_suspended_and_its_pod_has_the_priority(settings: Settings) -> None:
    policy = {"queueName": "team-a", "priorityClassName": "low", "workloadPriorityClassName": "urgent"}
    job = build(settings, specs.changed(specs.CLASSICAL, runPolicy=policy))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"
    assert job["spec"]["suspend"] is True
    assert pod_of(job)["priorityClassName"] == "low"

    without = build(settings, specs.CLASSICAL)
    assert not any("kueue" in label for label in without["metadata"]["labels"])
    assert (without["spec"]["suspend"], "managedBy" in without["spec"]) == (False, False)
    assert "priorityClassName" not in pod_of(without)


def test_the_policy_maps_onto_the_job(settings: Settings) -> None:
    policy = {"activeDeadlineSeconds": 60, "retries": 4, "ttlSecondsAfterFinished": 5}
    spec = build(settings, specs.changed(specs.CLASSICAL, runPolicy=policy))["spec"]
    assert (spec["activeDeadlineSeconds"], spec["backoffLimitPerIndex"]) == (60, 4)
    # The TTL comes only after the end of the task is on record.
    assert "ttlSecondsAfterFinished" not in spec


def test_a_user_error_fails_the_job_and_an_eviction_does_not_count(settings: Settings) -> None:
    mistake, eviction = build(settings, specs.CLASSICAL)["spec"]["podFailurePolicy"]["rules"]
    assert (mistake["action"], mistake["onExitCodes"]["values"]) == ("FailJob", [64])
    assert (eviction["action"], eviction["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


def test_claims_are_mounted_once_and_read_only_unless_they_take_the_output(settings: Settings) -> None:
    spec = specs.changed(
        specs.TRANSFORMER,
        dataset__volumeClaim="one",
        dataset__path="d",
        preprocessor={"volumeClaim": "two", "checkpoint": "e", "name": "my_code:Encoder"},
        model__volumeClaim="two",
        model__checkpoint="m",
        output__volumeClaim="one",
    )
    job = build(settings, spec)
    claims = {
        v["persistentVolumeClaim"]["claimName"]: v for v in pod_of(job)["volumes"] if "persistentVolumeClaim" in v
    }
    assert set(claims) == {"one", "two"}
    assert not claims["one"]["persistentVolumeClaim"]["readOnly"]
    assert claims["two"]["persistentVolumeClaim"]["readOnly"]
    mounts = {mount["mountPath"]: mount for mount in container_of(job)["volumeMounts"]}
    assert mounts[names.DATASET_DIR]["readOnly"]
    assert mounts[names.MODEL_DIR]["readOnly"]
    assert mounts[names.PREPROCESSOR_DIR] == mounts[names.MODEL_DIR] | {"mountPath": names.PREPROCESSOR_DIR}
    assert not mounts[names.OUTPUT_DIR]["readOnly"]
    assert mounts[names.DATASET_DIR]["name"] == mounts[names.OUTPUT_DIR]["name"] == claims["one"]["name"]


def test_code_is_mounted_where_the_trainer_looks_for_it(settings: Settings) -> None:
    job = build(settings, specs.changed(specs.CLASSICAL, code={"configMap": "my-code"}, model__name="bayes:NaiveBayes"))
    assert {"name": "code", "configMap": {"name": "my-code"}} in pod_of(job)["volumes"]
    assert {"name": "code", "mountPath": names.CODE_DIR, "readOnly": True} in container_of(job)["volumeMounts"]
    assert f"--code-dir={names.CODE_DIR}" in container_of(job)["args"]


@pytest.mark.parametrize("output", [None, {"uri": "s3://models/mine"}, {"hub": "me/mine"}])
def test_without_a_claim_the_output_goes_to_scratch_space(settings: Settings, output: dict[str, str] | None) -> None:
    spec = specs.changed(specs.CLASSICAL, output=output) if output else specs.CLASSICAL
    volumes = {volume["name"]: volume for volume in pod_of(build(settings, spec))["volumes"]}
    assert volumes["output"] == {"name": "output", "emptyDir": {}}


def test_sources_at_an_address_need_no_claim(settings: Settings) -> None:
    spec = {"dataset": {"name": "table", "uri": "s3://data/a.csv"}, "model": {"name": "auto", "uri": "s3://data/model"}}
    assert not [volume for volume in pod_of(build(settings, spec))["volumes"] if "persistentVolumeClaim" in volume]


def test_the_pod_meets_the_restricted_pod_security_standard(settings: Settings) -> None:
    job = build(settings, specs.CLASSICAL)
    assert pod_of(job)["securityContext"]["runAsNonRoot"]
    assert pod_of(job)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container_of(job)["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_users_image_and_secret_reach_the_container(settings: Settings) -> None:
    env = [{"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}]
    container = container_of(build(settings, specs.changed(specs.CLASSICAL, image="mine:1", env=env)))
    assert container["image"] == "mine:1"
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables[names.ENV_HISTORY_URL]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert "HF_HUB_OFFLINE" not in variables


def test_an_offline_cluster_sets_the_trainers_variable(settings: Settings) -> None:
    offline = settings.model_copy(update={"hub": settings.hub.model_copy(update={"offline": True})})
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container_of(build(offline, specs.CLASSICAL))["env"]
