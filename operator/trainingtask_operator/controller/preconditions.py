"""Why a task cannot get, or cannot be given, its Job: what this cluster does not offer, or refuses. Pure."""

from trainingtask_api import Reason, TrainingTask
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.job_builder import job_name
from trainingtask_operator.settings import Settings


def obstacle_of(task: TrainingTask, settings: Settings) -> Cause | None:
    """Return why these settings do not let the task train, None when they do."""
    if task.metadata.namespace not in settings.namespaces:
        return _unprepared(task, settings)
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


def _unprepared(task: TrainingTask, settings: Settings) -> Cause:
    prepared = ", ".join(settings.namespaces) or "none"
    return Cause(
        Reason.NAMESPACE_NOT_PREPARED,
        f"Namespace {task.metadata.namespace!r} is not prepared for training (prepared: {prepared}): "
        "ask the cluster's admin to add it to trainer.namespaces of the Helm release.",
    )


def name_conflict(task: TrainingTask) -> Cause:
    """Return what to say when the name of the task's Job is taken."""
    return Cause(
        Reason.NAME_CONFLICT,
        f"Job {job_name(task)!r} exists and does not belong to this task: delete it, or give the task another name.",
    )


def job_refused(why: Exception) -> Cause:
    """Return what to say when the API server does not take the Job as it is."""
    return Cause(
        Reason.JOB_REFUSED,
        f"The API server refuses the Job: correct what it names in a new task, or ask the cluster's admin. {why}",
    )


def workload_refused(task: TrainingTask, why: Exception) -> Cause:
    """Return what to say when Kueue cannot be told that the task shall stop, or go on."""
    return Cause(
        Reason.QUEUE_UNAVAILABLE,
        f"Kueue's Workload of Job {job_name(task)!r} cannot be changed: ask the cluster's admin to set kueue.enabled in"
        f" the Helm release. {why}",
    )


def no_workload(task: TrainingTask) -> Cause:
    """Return what to say when Kueue knows nothing of the task's Job."""
    policy = task.spec.run_policy
    return Cause(
        Reason.QUEUE_UNAVAILABLE,
        f"spec.runPolicy.suspend is {str(policy.suspend).lower()}, but Job {job_name(task)!r} has no Workload to tell"
        f" Kueue: is Kueue installed, and does it serve queue {policy.queue_name!r}?",
    )
