"""Metrics for Prometheus."""

import re

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

TASKS = Gauge("trainingtask_tasks", "Tasks by state.", ["state"])
RECONCILE_SECONDS = Histogram("trainingtask_reconcile_seconds", "Duration of one reconcile.", buckets=_FAST)
RECONCILE_ERRORS = Counter(
    "trainingtask_reconcile_errors", "Reconciles that failed: 'api' will be tried again, 'defect' is a bug.", ["kind"]
)
QUEUE_DEPTH = Gauge("trainingtask_queue_depth", "Tasks that wait for a reconcile.")
QUEUE_AGE = Gauge("trainingtask_queue_age_seconds", "How long the first of them has waited.")
JOB_SECONDS = Histogram(
    "trainingtask_create_to_job_seconds",
    "From the creation of a task, which Kubernetes notes in whole seconds, to its Job.",
    buckets=(*_FAST, 60, 300),
)
RUNNING_SECONDS = Histogram(
    "trainingtask_pod_running_to_status_seconds",
    "From the first sight of a running pod to the task's status saying so.",
    buckets=_FAST,
)
INVALID_RECORDS = Counter(
    "trainingtask_invalid_records", "Watched objects and history rows that cannot be read and are skipped.", ["kind"]
)
HISTORY_BACKLOG = Gauge("trainingtask_history_backlog_rows", "Rows that wait to be written into the history.")
LEADER = Gauge("trainingtask_leader", "1 on the replica that acts.")
API_REQUESTS = Counter(
    "trainingtask_api_requests",
    "Requests to the API server, watches left out; code 0 is no answer.",
    ["verb", "resource", "code"],
)

_RESOURCE = re.compile(r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([^/]+)(?:/[^/]+(?:/([^/]+))?)?$")


def count_request(verb: str, path: str, code: int) -> None:
    """Count a request to the API server by verb, resource and code, not by namespace and name.

    Examples
    --------
    PATCH ``/apis/trainingtask.dev/v1alpha1/namespaces/a/trainingtasks/b/status`` counts as ``trainingtasks/status``.
    """
    found = _RESOURCE.match(path)
    resource = "/".join(part for part in found.groups() if part) if found else "other"
    API_REQUESTS.labels(verb, resource, str(code)).inc()
