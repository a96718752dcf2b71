"""Metrics of the server of a model, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "trainingtask_serve_requests", "Requests for predictions, by path and HTTP status.", ["path", "code"]
)
TEXTS = Counter("trainingtask_serve_texts", "Texts that were predicted.")
REQUEST_SECONDS = Histogram(
    "trainingtask_serve_request_seconds",
    "From the header of a request for predictions to its response.",
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_TEXTS = Histogram(
    "trainingtask_serve_batch_texts", "Texts that were predicted together.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_TEXTS = Gauge("trainingtask_serve_queue_texts", "Texts that wait for their prediction.")
