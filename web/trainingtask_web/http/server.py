"""How uvicorn serves the pages and the API."""

from typing import Any

from trainingtask_api.bounded_http import BoundedProtocol

# Arguments of `uvicorn.run` and `uvicorn.Config`.
UVICORN_OPTIONS: dict[str, Any] = {
    "http": BoundedProtocol,
    "ws": "none",
    "h11_max_incomplete_event_size": 32 * 1024,  # bytes of request line and headers; a token may take 16 KiB
    # Requests in progress, while connections above the limit are refused.
    "limit_concurrency": 2 * BoundedProtocol.max_connections,
    "timeout_graceful_shutdown": 20,
    "log_config": None,
    "access_log": False,
    "server_header": False,
}
