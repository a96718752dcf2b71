"""Why a task stands where it stands: every reason that a condition, an attempt or a row of the history may name.

Stable words, for programs as well: a word never changes its meaning. docs/reasons.md says what each means and what to
do. The trainer's part is what the project's own image says; an image of somebody's own may say more.
"""

from enum import StrEnum


class Reason(StrEnum):
    """A stable CamelCase word."""

    # A task that goes well, or as its author wants it.
    ACCEPTED = "Accepted"
    STARTING = "Starting"
    TRAINER_RUNNING = "TrainerRunning"
    PROGRESS_STALE = "ProgressStale"
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    ENDED = "Ended"
    SUCCEEDED = "Succeeded"

    # It gets no Job yet.
    INVALID_SPEC = "InvalidSpec"
    NAMESPACE_NOT_PREPARED = "NamespaceNotPrepared"
    DEVICE_NOT_OFFERED = "DeviceNotOffered"
    PROFILE_NOT_OFFERED = "ProfileNotOffered"
    NAME_CONFLICT = "NameConflict"
    JOB_REFUSED = "JobRefused"

    # It waits.
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUEUE_UNAVAILABLE = "QueueUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    UNSCHEDULABLE = "Unschedulable"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a word
    CONTAINER_NOT_CREATED = "ContainerNotCreated"

    # An attempt ended, by Kubernetes' account.
    OOM_KILLED = "OOMKilled"
    STORAGE_EXCEEDED = "StorageExceeded"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    POD_LOST = "PodLost"
    POD_FAILED = "PodFailed"

    # An attempt ended, by the trainer's account.
    INTERRUPTED = "Interrupted"
    TRAINER_CRASHED = "TrainerCrashed"
    INVALID_DATA = "InvalidData"
    INVALID_CODE = "InvalidCode"
    UNKNOWN_NAME = "UnknownName"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_UNAVAILABLE = "DatasetUnavailable"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_MISMATCH = "ModelMismatch"
    HUB_UNAVAILABLE = "HubUnavailable"
    NON_FINITE_LOSS = "NonFiniteLoss"
    OUT_OF_MEMORY = "OutOfMemory"
    NO_GPU = "NoGPU"
    NO_SPACE_LEFT = "NoSpaceLeft"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    OUTPUT_OCCUPIED = "OutputOccupied"
    INVALID_HISTORY = "InvalidHistory"
    BROKEN_IMAGE = "BrokenImage"

    # The task ended.
    RETRIES_EXHAUSTED = "RetriesExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    JOB_DELETED = "JobDeleted"
    JOB_FAILED = "JobFailed"
    CANCELLED = "Cancelled"
