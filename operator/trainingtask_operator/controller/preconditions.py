"""Preconditions of a task's Job or JobSet, and why the cluster does not meet them or refuses it. Pure."""

from trainingtask_api import Reason, TrainingTask, names
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.workload_builder import describe_job, get_workload_kind
from trainingtask_operator.settings import Settings


def find_unmet_precondition(task: TrainingTask, settings: Settings) -> Cause | None:
    """Return which of the admin's settings excludes the task, None when none does."""
    if task.metadata.namespace not in settings.namespaces:
        return _explain_unprepared_namespace(task, settings)
    device, resources = task.spec.device, task.spec.resources
    if resources is not None and resources.profile is not None:
        offered = sorted(name for name, profile in settings.profiles.items() if profile.device is device)
        if resources.profile not in offered:
            return Cause(
                Reason.PROFILE_NOT_OFFERED,
                f"This cluster offers no profile {resources.profile!r} for device {device.value!r} (offered:"
                f" {', '.join(offered) or 'none'}): correct spec.resources.profile in a new task, or ask the"
                f" cluster's admin to add it to trainer.profiles of the Helm release.",
            )
    elif device not in settings.devices:
        return Cause(
            Reason.DEVICE_NOT_OFFERED,
            f"This cluster offers no device {device.value!r}: ask its admin to set trainer.devices.{device.value}.",
        )
    return None


def _explain_unprepared_namespace(task: TrainingTask, settings: Settings) -> Cause:
    prepared = ", ".join(settings.namespaces) or "none"
    return Cause(
        Reason.NAMESPACE_NOT_PREPARED,
        f"Namespace {task.metadata.namespace!r} is not prepared for training (prepared: {prepared}): "
        "ask the cluster's admin to add it to trainer.namespaces of the Helm release.",
    )


def explain_name_conflict(task: TrainingTask) -> Cause:
    """Return the cause for a name that another owner's Job or JobSet has."""
    return Cause(
        Reason.NAME_CONFLICT,
        f"{describe_job(task)} exists and does not belong to this task: delete it, or give the task another name.",
    )


def explain_missing_jobset_kind(task: TrainingTask) -> Cause:
    """Return the cause for a cluster without JobSet."""
    return Cause(
        Reason.JOBSET_NOT_INSTALLED,
        f"resources.nodes is {task.spec.node_count}, and this cluster has no {names.JOBSET_API_VERSION}: ask its admin to"
        " install JobSet (https://jobset.sigs.k8s.io), and the task starts by itself; or use one node.",
    )


def explain_rejected_job(task: TrainingTask, error: Exception) -> Cause:
    """Return the cause for a Job or JobSet that the API server rejects."""
    return Cause(
        Reason.JOB_REFUSED,
        f"The API server refuses the {get_workload_kind(task)}: correct what it names in a new task, or ask the cluster's admin. {error}",
    )
