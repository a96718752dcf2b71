"""Error responses: one sentence each, as JSON for programs and as a page for browsers."""

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from trainingtask_history.errors import HistoryError, HistoryUnavailable
from trainingtask_web.auth.errors import ApiServerError, SignInRequired
from trainingtask_web.http.middleware import get_security_headers, get_site_path

log = logging.getLogger(__name__)


class ErrorResponse(BaseModel):
    """What went wrong: which field, its value, and what is allowed."""

    detail: str


ErrorPage = Callable[[Request, int, str], Response]
RUN_NOT_FOUND = "There is no such run, or it is not yours to see."


def is_html_preferred(request: Request) -> bool:
    """Return whether the Accept header prefers HTML to JSON; never for the API's paths."""
    if request.url.path.startswith(get_site_path(request, "/api/")):
        return False
    weights = dict(_parse_accept(request.headers.get("accept", "")))
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    weights = []
    for part in accept.split(","):
        kind, *parameters = (item.strip().lower() for item in part.split(";"))
        weight = next((item[2:] for item in parameters if item.startswith("q=")), "1")
        try:
            weights.append((kind, float(weight)))
        except ValueError:
            weights.append((kind, 0.0))
    return weights


def add_exception_handlers(app: FastAPI, render_page: ErrorPage) -> None:
    """Let `app` answer every exception with one sentence."""

    def respond(request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
        if is_html_preferred(request):
            response = render_page(request, status, sentence)
            response.headers.update(headers or {})
            return response
        return JSONResponse({"detail": sentence}, status, headers)

    @app.exception_handler(HTTPException)
    def handle_http_exception(request: Request, error: HTTPException) -> Response:
        if isinstance(error, SignInRequired) and request.method == "GET" and is_html_preferred(request):
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(get_site_path(request, f"/session?next={quote(target, safe='')}"), 303)
        sentence = str(error.detail)
        if sentence == "Not Found" and not is_html_preferred(request):
            sentence = f"There is nothing at {request.url.path[:200]!r}: {get_site_path(request, '/docs')} lists what there is."
        return respond(request, error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
        return respond(request, 422, "; ".join(_describe_error(item) for item in error.errors()))

    @app.exception_handler(HistoryUnavailable)
    def handle_history_unavailable(request: Request, error: HistoryUnavailable) -> Response:
        log.warning("%s", error)  # it names hosts, so it goes to the admin alone
        return respond(request, 503, "The history does not answer now: try again in a moment.", {"Retry-After": "5"})

    @app.exception_handler(HistoryError)
    def handle_history_error(request: Request, error: HistoryError) -> Response:
        log.error("%s", error)
        return respond(request, 500, "The history refused this question: the admin finds why in the log.")

    @app.exception_handler(ApiServerError)
    def handle_api_server_error(request: Request, error: ApiServerError) -> Response:
        log.warning("%s", error)
        sentence = "Kubernetes cannot say now what you may see: try again in a moment."
        return respond(request, 503, sentence, {"Retry-After": "5"})

    @app.exception_handler(Exception)
    def handle_unexpected_error(request: Request, _: Exception) -> Response:
        # Sent from outside of the middleware that adds the headers.
        return respond(
            request, 500, "This is a fault of the web app: the admin finds why in the log.", get_security_headers("/")
        )


def _describe_error(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"][1:] or item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    value = item.get("input")
    if item["type"] == "missing" or not isinstance(value, str | int | float | bool):
        return f"{path}: {message}"
    return f"{path}: {str(value)[:200]!r} is refused: {message}"
