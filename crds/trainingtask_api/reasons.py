"""Every reason that a condition, an attempt or a row of the history may name; docs/reasons.md explains each.

The values are stable, for programs as well. The trainer's are those of the project's own image; an extension, or an
image of a user's own, may report others.
"""

from enum import StrEnum


class Reason(StrEnum):
    """A stable CamelCase word."""

    # The task goes as its author wants it.
    ACCEPTED = "Accepted"
    STARTING = "Starting"
    TRAINER_RUNNING = "TrainerRunning"
    PROGRESS_STALE = "ProgressStale"
    SIDECAR_RUNNING = "SidecarRunning"
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    ENDED = "Ended"
    SUCCEEDED = "Succeeded"

    # The task has no Job yet.
    INVALID_SPEC = "InvalidSpec"
    NAMESPACE_NOT_PREPARED = "NamespaceNotPrepared"
    DEVICE_NOT_OFFERED = "DeviceNotOffered"
    PROFILE_NOT_OFFERED = "ProfileNotOffered"
    NAME_CONFLICT = "NameConflict"
    JOB_REFUSED = "JobRefused"
    JOBSET_NOT_INSTALLED = "JobSetNotInstalled"
    CLAIM_NOT_SHARED = "ClaimNotShared"

    # Its pod waits.
    WAITING_FOR_QUOTA = "WaitingForQuota"
    JOB_SUSPENDED = "JobSuspended"
    QUEUE_UNAVAILABLE = "QueueUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    UNSCHEDULABLE = "Unschedulable"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_ATTACHED = "VolumeNotAttached"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    SANDBOX_NOT_CREATED = "SandboxNotCreated"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a word
    CONTAINER_NOT_CREATED = "ContainerNotCreated"

    # An attempt ended; Kubernetes reports why.
    OOM_KILLED = "OOMKilled"
    STORAGE_EXCEEDED = "StorageExceeded"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    POD_LOST = "PodLost"
    POD_FAILED = "PodFailed"

    # An attempt ended; the trainer reports why.
    INTERRUPTED = "Interrupted"
    TRAINER_CRASHED = "TrainerCrashed"
    PEER_LOST = "PeerLost"
    PEER_UNRESPONSIVE = "PeerUnresponsive"
    INVALID_DATA = "InvalidData"
    INVALID_CODE = "InvalidCode"
    UNKNOWN_NAME = "UnknownName"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_UNAVAILABLE = "DatasetUnavailable"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_DENIED = "SourceDenied"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_MISMATCH = "ModelMismatch"
    HUB_UNAVAILABLE = "HubUnavailable"
    NON_FINITE_LOSS = "NonFiniteLoss"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    OUT_OF_MEMORY = "OutOfMemory"
    NO_GPU = "NoGPU"
    NO_SPACE_LEFT = "NoSpaceLeft"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    OUTPUT_OCCUPIED = "OutputOccupied"
    OUTPUT_DENIED = "OutputDenied"
    OUTPUT_UNAVAILABLE = "OutputUnavailable"
    INVALID_HISTORY = "InvalidHistory"
    BROKEN_IMAGE = "BrokenImage"

    # The task ended.
    RETRIES_EXHAUSTED = "RetriesExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    JOB_DELETED = "JobDeleted"
    JOB_FAILED = "JobFailed"
    CANCELLED = "Cancelled"
