"""Volume claims of a task for several nodes: each must be mountable on all of them. Pure."""

from trainingtask_api import Reason, TrainingTask
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.kube_objects import Object


def list_claims(jobset: Object) -> list[tuple[str, bool]]:
    """Return the names of the claims that the pods of a JobSet mount, each with whether it is mounted read-only."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    volumes = replicated["template"]["spec"]["template"]["spec"]["volumes"]
    claims = [volume["persistentVolumeClaim"] for volume in volumes if "persistentVolumeClaim" in volume]
    return [(claim["claimName"], claim.get("readOnly", False)) for claim in claims]


def explain_unshared_claim(task: TrainingTask, claim: Object, *, is_read_only: bool) -> Cause | None:
    """Return the cause for a claim that pods on several nodes cannot mount together, None when they can."""
    usable = ["ReadWriteMany", *(["ReadOnlyMany"] if is_read_only else [])]
    modes = claim["spec"].get("accessModes") or []
    if any(mode in usable for mode in modes):
        return None
    return Cause(
        Reason.CLAIM_NOT_SHARED,
        f"Volume claim {claim['metadata']['name']!r} has the access modes {', '.join(modes) or 'none'}, and"
        f" resources.nodes is {task.spec.node_count}: give the task a claim that is {' or '.join(usable)}, or read and"
        " write by 'uri' or from the hub.",
    )
