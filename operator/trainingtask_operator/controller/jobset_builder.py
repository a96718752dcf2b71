"""The JobSet of a task that trains on several nodes, from the task and the admin's settings. Pure.

Its one Indexed Job has a pod for each node. When one fails, the Job fails, and JobSet's failure policy decides by the
Job's reason and message; a restart replaces all pods, for the others cannot go on without the lost one.
"""

from trainingtask_api import ExitCode, TrainingTask, names
from trainingtask_operator.controller.job_builder import (
    FAIL_ON_USER_ERROR,
    build_metadata,
    build_scheduling,
    build_unique_name,
)
from trainingtask_operator.controller.pod_builder import build_labels, build_pod_template
from trainingtask_operator.controller.pod_environment import build_field_variable, build_variable
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.settings import Settings

# JobSet refuses a name whose pods' names, `<name>-trainer-0-63-abcde`, have more than 63 characters.
_MAX_NAME_CHARACTERS = 44
_FAIL_ON_DISRUPTION = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
# The messages of the Job controller: "Container trainer for pod ns/name failed with exit code 64 matching FailJob rule at
# index 0", "Pod ns/name has condition DisruptionTarget matching FailJob rule at index 1". Without a rule that matches, a
# failure counts against maxRestarts.
_FAILURE_RULES: list[Object] = [
    {
        "name": "userError",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [f" failed with exit code {int(ExitCode.USER_ERROR)} matching FailJob rule"],
    },
    {
        "name": "disruption",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [" has condition DisruptionTarget matching FailJob rule"],
    },
    {"name": "deadline", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]},
]


def build_jobset_name(task: TrainingTask) -> str:
    """Return the name of the task's JobSet; it begins with a letter, for the JobSet's Service has it as well."""
    name = build_unique_name(task, _MAX_NAME_CHARACTERS)
    return name if name[0].isalpha() else f"t-{build_unique_name(task, _MAX_NAME_CHARACTERS - 2)}"


def build_main_address(task: TrainingTask) -> str:
    """Return the host name of the pod with index 0, as JobSet's Service resolves it."""
    name = build_jobset_name(task)
    return f"{name}-{names.REPLICATED_JOB}-0-0.{name}"


def build_jobset(task: TrainingTask, settings: Settings) -> Object:
    """Return the JobSet that trains `task`."""
    return {
        "apiVersion": names.JOBSET_API_VERSION,
        "kind": names.JOBSET_KIND,
        "metadata": build_metadata(task, build_jobset_name(task)),
        "spec": {
            **build_scheduling(task),
            # Defaults of JobSet's webhook, which may not serve yet when the kind appears: its controller fails without.
            "successPolicy": {"operator": "All"},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": task.spec.run_policy.retries, "rules": _FAILURE_RULES},
            "replicatedJobs": [
                {
                    "name": names.REPLICATED_JOB,
                    "replicas": 1,
                    "template": {"metadata": {"labels": build_labels(task)}, "spec": _build_job_spec(task, settings)},
                }
            ],
        },
    }


def _build_job_spec(task: TrainingTask, settings: Settings) -> Object:
    nodes, policy = task.spec.node_count, task.spec.run_policy
    restarts, former = f"metadata.annotations['{names.RESTART_COUNT_ANNOTATION}']", str(_count_former_attempts(task))
    variables = [
        build_field_variable(names.ENV_FAILURE_COUNT, restarts),
        build_variable(names.ENV_IGNORED_FAILURE_COUNT, former),
        build_variable(names.ENV_MAIN_ADDRESS, build_main_address(task)),
    ]
    template = build_pod_template(task, settings, variables)
    template["metadata"]["annotations"][names.FORMER_ATTEMPTS_ANNOTATION] = former
    spec: Object = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [FAIL_ON_USER_ERROR, _FAIL_ON_DISRUPTION]},
        "template": template,
    }
    if policy.active_deadline_seconds is not None:  # of one attempt: the operator ends all of them together
        spec["activeDeadlineSeconds"] = policy.active_deadline_seconds
    return spec


def _count_former_attempts(task: TrainingTask) -> int:
    """Return how many attempts have ended with a JobSet that somebody has deleted: a new one counts restarts from 0."""
    records = (task.status and task.status.attempts) or []
    return max((record.number for record in records if record.reason), default=0)
