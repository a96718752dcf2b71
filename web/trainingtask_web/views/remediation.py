"""What to do about a reason: the last column of docs/reasons.md, to which a test compares it."""

from trainingtask_api import Reason

NEXT_STEPS: dict[str, str] = {
    Reason.ACCEPTED: "None.",
    Reason.STARTING: "Wait.",
    Reason.TRAINER_RUNNING: "Wait.",
    Reason.PROGRESS_STALE: "`kubectl logs` of the pod. If it hangs, delete the pod: the attempt ends and is tried again.",
    Reason.SIDECAR_RUNNING: (
        "None for this task. Ask the admin to keep such containers out of trainers' pods, by `trainer.podAnnotations`."
    ),
    Reason.SUSPENDED_BY_USER: "Set it to false to go on from the last checkpoint.",
    Reason.RESUMED: "None.",
    Reason.ENDED: "See that condition.",
    Reason.SUCCEEDED: "Use it.",
    Reason.INVALID_SPEC: "Correct the field that the message names, in a new task.",
    Reason.NAMESPACE_NOT_PREPARED: "Ask the cluster's admin to add it to `trainer.namespaces`.",
    Reason.DEVICE_NOT_OFFERED: "Use another `device`, or ask the admin for `trainer.devices`.",
    Reason.PROFILE_NOT_OFFERED: "Use one that the message lists, or ask the admin for `trainer.profiles`.",
    Reason.JOBSET_NOT_INSTALLED: (
        "Ask the cluster's admin to install JobSet (https://jobset.sigs.k8s.io), or create the task without"
        " `resources.nodes`."
    ),
    Reason.CLAIM_NOT_SHARED: (
        "Use a volume claim with access mode ReadWriteMany, or an address in an object store or on the hub."
    ),
    Reason.NAME_CONFLICT: "Delete that Job, or create the task anew.",
    Reason.JOB_REFUSED: "Read the message; it is the API server's own.",
    Reason.WAITING_FOR_QUOTA: "Wait; the message says what is short, and `kubectl get localqueue` how long the queue is.",
    Reason.JOB_SUSPENDED: "Ask who suspended it, or resume it by the command in the message.",
    Reason.QUEUE_UNAVAILABLE: "Check that Kueue serves the queue, and that `kueue.enabled` is set in the Helm release.",
    Reason.QUOTA_EXCEEDED: "Wait for other pods to end, or ask for less in `resources`.",
    Reason.POD_REFUSED: "Read the message; it is the API server's own.",
    Reason.UNSCHEDULABLE: "Wait, ask for less in `resources`, or ask the admin for nodes.",
    Reason.VOLUME_NOT_FOUND: "Create it in the task's namespace.",
    Reason.VOLUME_NOT_ATTACHED: (
        "Wait until the pod that uses the volume has ended, or use a volume claim with access mode ReadWriteMany."
    ),
    Reason.VOLUME_NOT_MOUNTED: "Read the message; it is the kubelet's own.",
    Reason.SANDBOX_NOT_CREATED: "Read the message; it is the container runtime's own, often about the network.",
    Reason.IMAGE_PULL_FAILED: "Correct `image`, or ask the admin for the registry's Secret.",
    Reason.SECRET_NOT_FOUND: "Create it.",
    Reason.CONTAINER_NOT_CREATED: "Read the message; it is the container runtime's own.",
    Reason.EVICTED: "None: it is tried again and goes on from the last checkpoint.",
    Reason.PREEMPTED: "None; `runPolicy.priorityClassName` decides who yields.",
    Reason.NODE_LOST: "None.",
    Reason.STORAGE_EXCEEDED: "Raise `resources.storage`, or keep checkpoints, data and output in volume claims.",
    Reason.OOM_KILLED: "Raise `resources.memory`, or lower `training.batchSize` or `preprocessor.maxLength`.",
    Reason.POD_LOST: "None: it is tried again.",
    Reason.POD_FAILED: "Read the message; it is the kubelet's own.",
    Reason.INVALID_DATA: "Correct the data or the `dataset` section.",
    Reason.INVALID_CODE: "Correct the code.",
    Reason.UNKNOWN_NAME: "Use a name that the message lists.",
    Reason.DATASET_NOT_FOUND: "Correct the path; the message shows what is there.",
    Reason.DATASET_UNAVAILABLE: "Correct `dataset.hub`, or pass an `HF_TOKEN` in `env`.",
    Reason.SOURCE_NOT_FOUND: "Correct the `uri`; the message shows what is there.",
    Reason.SOURCE_DENIED: "Pass the store's keys in `env`, or ask the admin for an identity of the trainers that may read it.",
    Reason.MODEL_UNAVAILABLE: "Correct `model.checkpoint`, convert it as the message says, or pass an `HF_TOKEN` in `env`.",
    Reason.MODEL_MISMATCH: "Use the `model.name` that the message suggests.",
    Reason.NON_FINITE_LOSS: "Lower `training.learningRate`, or look at the data.",
    Reason.NO_GPU: "Ask the admin about the device's image and driver.",
    Reason.OUTPUT_OCCUPIED: "Use another `subPath`, `uri` or repository.",
    Reason.OUTPUT_DENIED: "Pass keys or a token that may write it in `env`, or ask the admin for an identity of the trainers that may.",
    Reason.INVALID_HISTORY: "Correct it.",
    Reason.INTERRUPTED: "None: it is tried again.",
    Reason.PEER_LOST: "Look at the other pods of the task: one of them ended first.",
    Reason.PEER_UNRESPONSIVE: "Look at what the named process logged last, and check the network between the nodes.",
    Reason.TRAINER_CRASHED: "Read the log; the history row keeps its last lines.",
    Reason.HUB_UNAVAILABLE: "None, or use a claim.",
    Reason.SOURCE_UNAVAILABLE: "None: it is tried again.",
    Reason.OUTPUT_UNAVAILABLE: "None: it is tried again, from the last checkpoint that was stored.",
    Reason.INSUFFICIENT_MEMORY: "Set `resources.memory` to what the message names, or use a smaller checkpoint.",
    Reason.OUT_OF_MEMORY: "Raise `resources.memory`, or lower `training.batchSize`.",
    Reason.NO_SPACE_LEFT: "Make room in the output claim; where the message names a download, raise `resources.storage` or use another node.",
    Reason.OUTPUT_NOT_WRITABLE: "Check the claim's rights.",
    Reason.BROKEN_IMAGE: "Ask whoever built the image.",
    Reason.RETRIES_EXHAUSTED: "Do what the last reason asks for, and create the task again.",
    Reason.DEADLINE_EXCEEDED: "Allow more time, or train less.",
    Reason.JOB_DELETED: "Create the task again to train again.",
    Reason.JOB_FAILED: "Create the task again.",
    Reason.CANCELLED: "None.",
}


def get_next_step(reason: str | None) -> str | None:
    """Return what to do about a reason, None for an unknown one or where there is nothing to do."""
    step = NEXT_STEPS.get(reason or "")
    if step is None or step == "None.":
        return None
    return "Nothing" + step.removeprefix("None") if step.startswith("None") else step
