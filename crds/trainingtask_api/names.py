"""Names that the operator, the trainer, the chart and users' manifests share."""

from typing import Final

# Kubernetes: the resource, and the patterns of its name and of its namespace's.
GROUP: Final = "trainingtask.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "TrainingTask"
PLURAL: Final = "trainingtasks"
NAMESPACE_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
TASK_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"

# Kubernetes: objects of a task. Server-side apply separates the two writers of a status by their field managers.
OPERATOR_FIELD_MANAGER: Final = "trainingtask-operator"
TRAINER_FIELD_MANAGER: Final = "trainingtask-trainer"
TRAINER_CONTAINER: Final = "trainer"
TRAINER_SERVICE_ACCOUNT: Final = "trainingtask-trainer"
TRAINER_IMAGE_ANNOTATION: Final = f"{GROUP}/trainer-image"  # of that account; for helper pods of the CLI
TRAINER_USER_ANNOTATION: Final = f"{GROUP}/trainer-user"  # the same: user and groups as fields of a security context
TASK_NAME_LABEL: Final = f"{GROUP}/task-name"
TASK_UID_LABEL: Final = f"{GROUP}/task-uid"
# Beginnings of the labels and annotations that the operator and Kubernetes' controllers set on a task's pods.
OWN_PREFIXES: Final = (
    f"{GROUP}/",
    "app.kubernetes.io/",
    "batch.kubernetes.io/",
    "jobset.sigs.k8s.io/",
    "controller-uid",
    "job-name",
)
TASK_ANNOTATION: Final = f"{GROUP}/task"  # the task as JSON; the pod mounts it as its task file
# Set by Kubernetes on the pods of an Indexed Job with a backoff limit per index; attempt = 1 + their sum.
FAILURE_COUNT_ANNOTATION: Final = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURE_COUNT_ANNOTATION: Final = "batch.kubernetes.io/job-index-ignored-failure-count"

# JobSet: the kind that trains a task on several nodes, and its one replicated Job. The annotation counts the restarts of
# the group on each pod, the operator's own the attempts that ended with a former JobSet; attempt = 1 + both.
JOBSET_API_VERSION: Final = "jobset.x-k8s.io/v1alpha2"
JOBSET_KIND: Final = "JobSet"
REPLICATED_JOB: Final = "trainer"
RESTART_COUNT_ANNOTATION: Final = "jobset.sigs.k8s.io/restart-attempt"
FORMER_ATTEMPTS_ANNOTATION: Final = f"{GROUP}/former-attempts"
NODE_RANK_ANNOTATION: Final = "batch.kubernetes.io/job-completion-index"  # on each pod, as Kubernetes sets it

# The file by which a folder is known as a trained model.
MODEL_MANIFEST_FILE: Final = "trainingtask.json"

# On a Job, JobSet or Workload: "true" while it is suspended by the operator, for the task is.
SUSPENDED_ANNOTATION: Final = f"{GROUP}/suspended"

# Kueue: labels of its Jobs and of its Workloads.
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
WORKLOAD_PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"
KUEUE_GROUP: Final = "kueue.x-k8s.io"
KUEUE_WORKLOAD_KIND: Final = "Workload"
KUEUE_VERSIONS: Final = ("v1beta2", "v1beta1")  # newest first
KUEUE_JOB_UID_LABEL: Final = "kueue.x-k8s.io/job-uid"

# History: the Secret in a task's namespace that lets the trainer write its own row, and the roles in Postgres.
HISTORY_SECRET: Final = "trainingtask-history"  # noqa: S105 - a name
HISTORY_SECRET_KEY: Final = "url"  # noqa: S105
HISTORY_CA_KEY: Final = "ca.crt"  # in the same Secret: the CA of the database's certificate
HISTORY_TRAINER_ROLE: Final = "trainingtask_trainer"  # the trainer role of each namespace is a member
HISTORY_READER_ROLE: Final = "trainingtask_reader"

# Environment of a trainer pod.
ENV_POD_NAME: Final = "TRAININGTASK_POD"
ENV_NODE_NAME: Final = "TRAININGTASK_NODE"
ENV_IMAGE: Final = "TRAININGTASK_IMAGE"
ENV_HISTORY_URL: Final = "TRAININGTASK_HISTORY_URL"
ENV_FAILURE_COUNT: Final = "TRAININGTASK_FAILURE_COUNT"
ENV_IGNORED_FAILURE_COUNT: Final = "TRAININGTASK_IGNORED_FAILURE_COUNT"
# Of several nodes: the host name of the pod with index 0, where the processes meet at this port. Kubernetes sets the index.
ENV_MAIN_ADDRESS: Final = "TRAININGTASK_MAIN_ADDRESS"
MAIN_PORT: Final = 29500
ENV_NODE_RANK: Final = "JOB_COMPLETION_INDEX"
ENV_STORAGE_LIMIT: Final = "TRAININGTASK_STORAGE_LIMIT"  # bytes of the node's disk that the pod may write
# "true": a web server may redirect a download to an address of the cluster's own network.
ENV_ALLOW_PRIVATE_REDIRECTS: Final = "TRAININGTASK_ALLOW_PRIVATE_REDIRECTS"
# The cluster's MLflow server, and the experiment of all tasks there; and the keys of the admin's Secret, which are variables.
ENV_MLFLOW_URI: Final = "TRAININGTASK_MLFLOW_URI"
ENV_MLFLOW_EXPERIMENT: Final = "TRAININGTASK_MLFLOW_EXPERIMENT"
ENV_MLFLOW_TOKEN: Final = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - a name
ENV_MLFLOW_USERNAME: Final = "MLFLOW_TRACKING_USERNAME"
ENV_MLFLOW_PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105

# Environment of the operator.
ENV_LEASE: Final = "TRAININGTASK_LEASE"  # namespace/name; set: only the replica that holds it acts
ENV_HISTORY_PASSWORDS: Final = "TRAININGTASK_HISTORY_PASSWORDS"  # folder with a file per namespace
ENV_LOG_FORMAT: Final = "TRAININGTASK_LOG_FORMAT"  # json or text
ENV_HEALTH_PORT: Final = "TRAININGTASK_HEALTH_PORT"
ENV_METRICS_PORT: Final = "TRAININGTASK_METRICS_PORT"

# Mount paths in a trainer pod.
TASK_DIR: Final = "/etc/trainingtask"
TASK_FILE: Final = f"{TASK_DIR}/task.yaml"
HISTORY_CA_DIR: Final = "/etc/trainingtask-history"
CA_BUNDLE_DIR: Final = "/etc/trainingtask-ca"  # the certificate authorities that an admin gives all trainers
CA_BUNDLE_FILE: Final = f"{CA_BUNDLE_DIR}/ca.crt"
CODE_DIR: Final = "/etc/trainingtask-code"  # Python files of the ConfigMap that a task names
DATASET_DIR: Final = "/mnt/dataset"
MODEL_DIR: Final = "/mnt/model"
PREPROCESSOR_DIR: Final = "/mnt/preprocessor"
OUTPUT_DIR: Final = "/mnt/output"
HUB_CACHE_DIR: Final = "/mnt/huggingface"  # the claim of downloads that the trainers of a namespace share
