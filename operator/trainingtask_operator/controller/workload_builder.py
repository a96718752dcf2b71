"""The workload of a task: a Job on one node, a JobSet on several. Pure."""

from trainingtask_api import TrainingTask, names
from trainingtask_operator.controller.job_builder import build_job, build_job_name
from trainingtask_operator.controller.jobset_builder import build_jobset, build_jobset_name
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.settings import Settings


def get_workload_kind(task: TrainingTask) -> str:
    """Return "Job" or "JobSet"."""
    return names.JOBSET_KIND if task.spec.node_count > 1 else "Job"


def build_workload_name(task: TrainingTask) -> str:
    """Return the name of the task's Job or JobSet."""
    return build_jobset_name(task) if task.spec.node_count > 1 else build_job_name(task)


def describe_job(task: TrainingTask) -> str:
    """Return the kind and name of the task's Job or JobSet."""
    return f"{get_workload_kind(task)} {build_workload_name(task)!r}"


def build_workload(task: TrainingTask, settings: Settings) -> Object:
    """Return the Job or JobSet that trains `task`."""
    return build_jobset(task, settings) if task.spec.node_count > 1 else build_job(task, settings)
