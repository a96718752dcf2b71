"""Names that the operator, the trainer, the chart and people's manifests have to agree on."""

from typing import Final

GROUP: Final = "trainingtask.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "TrainingTask"
PLURAL: Final = "trainingtasks"

# Server-side apply keeps the two writers of a status apart by these names.
OPERATOR_FIELD_MANAGER: Final = "trainingtask-operator"
TRAINER_FIELD_MANAGER: Final = "trainingtask-trainer"

TRAINER_CONTAINER: Final = "trainer"
TRAINER_SERVICE_ACCOUNT: Final = "trainingtask-trainer"

TASK_NAME_LABEL: Final = f"{GROUP}/task-name"
TASK_UID_LABEL: Final = f"{GROUP}/task-uid"
TASK_ANNOTATION: Final = f"{GROUP}/task"  # the task as JSON; the pod mounts it as its task file

# What Kueue knows its Jobs and its own Workloads by.
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP: Final = "kueue.x-k8s.io"
KUEUE_VERSIONS: Final = ("v1beta2", "v1beta1")  # newest first
KUEUE_JOB_UID_LABEL: Final = "kueue.x-k8s.io/job-uid"

# The Secret that, where it exists in a task's namespace, lets the trainer write its own history row.
HISTORY_SECRET: Final = "trainingtask-history"  # noqa: S105 - a name
HISTORY_SECRET_KEY: Final = "url"  # noqa: S105
HISTORY_CA_KEY: Final = "ca.crt"  # in the same Secret: who signed the database's certificate
# The Postgres role of which each namespace's own role for its trainers is a member.
HISTORY_TRAINER_ROLE: Final = "trainingtask_trainer"
# The Postgres role of whoever shows the history: it may read.
HISTORY_READER_ROLE: Final = "trainingtask_reader"

# Environment of a trainer pod.
ENV_POD_NAME: Final = "TRAININGTASK_POD"
ENV_NODE_NAME: Final = "TRAININGTASK_NODE"
ENV_IMAGE: Final = "TRAININGTASK_IMAGE"
ENV_HISTORY_URL: Final = "TRAININGTASK_HISTORY_URL"
# Environment of the operator.
ENV_LEASE: Final = "TRAININGTASK_LEASE"  # namespace/name; set: only the replica that holds it acts
ENV_HISTORY_PASSWORDS: Final = "TRAININGTASK_HISTORY_PASSWORDS"  # folder with a file per namespace
ENV_LOG_FORMAT: Final = "TRAININGTASK_LOG_FORMAT"  # json or text
ENV_HEALTH_PORT: Final = "TRAININGTASK_HEALTH_PORT"
ENV_METRICS_PORT: Final = "TRAININGTASK_METRICS_PORT"
# Set by Kubernetes on the pods of an Indexed Job with a backoff limit per index; attempt = 1 + their sum.
FAILURE_COUNT_ANNOTATION: Final = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURE_COUNT_ANNOTATION: Final = "batch.kubernetes.io/job-index-ignored-failure-count"
ENV_FAILURE_COUNT: Final = "TRAININGTASK_FAILURE_COUNT"
ENV_IGNORED_FAILURE_COUNT: Final = "TRAININGTASK_IGNORED_FAILURE_COUNT"

# Where a trainer pod finds things.
TASK_DIR: Final = "/etc/trainingtask"
TASK_FILE: Final = f"{TASK_DIR}/task.yaml"
HISTORY_CA_DIR: Final = "/etc/trainingtask-history"
CODE_DIR: Final = "/etc/trainingtask-code"  # Python files of the ConfigMap that a task names
DATASET_DIR: Final = "/mnt/dataset"
MODEL_DIR: Final = "/mnt/model"
PREPROCESSOR_DIR: Final = "/mnt/preprocessor"
OUTPUT_DIR: Final = "/mnt/output"

# What ships with the project; an image may add more, about which the contract knows nothing.
TRANSFORMER_FAMILIES: Final = ("distilbert", "bert", "roberta", "xlnet", "albert", "auto")
CLASSICAL_MODELS: Final = ("logistic_regression", "linear_svc", "random_forest", "knn")
NATIVE_MULTI_LABEL_MODELS: Final = ("random_forest", "knn")
KNOWN_MODELS: Final = TRANSFORMER_FAMILIES + CLASSICAL_MODELS
PREPROCESSORS: Final = ("tokenizer", "tfidf", "embedding")
