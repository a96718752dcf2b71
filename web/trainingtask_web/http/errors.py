"""Answers that are no success: one sentence each, as JSON for programs and as a page for people."""

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from trainingtask_history.store import HistoryError, HistoryUnavailable
from trainingtask_web.auth.kubernetes import ApiServerError
from trainingtask_web.http.middleware import get_security_headers

log = logging.getLogger(__name__)


class ErrorResponse(BaseModel):
    """What went wrong: which field, its value, and what is allowed."""

    detail: str


ErrorPage = Callable[[Request, int, str], Response]
RUN_NOT_FOUND = "There is no such run, or it is not yours to see."


class SignInRequired(HTTPException):
    """Nobody known asks: a program gets 401, a browser the page to sign in."""

    def __init__(self, sentence: str) -> None:
        super().__init__(401, sentence, {"WWW-Authenticate": "Bearer"})


class TooManyAttempts(HTTPException):
    """Too many tokens that Kubernetes does not know came from one address, or from all together."""

    def __init__(self, seconds: float) -> None:
        sentence = "Too many unknown tokens came from this address, or from all together: check the token, and try again in a minute."
        super().__init__(429, sentence, {"Retry-After": f"{seconds:.0f}"})


def is_html_preferred(request: Request) -> bool:
    """Tell a browser's request for a page from a program's request."""
    if request.url.path.startswith("/api/"):
        return False
    weights = dict(_parse_accept(request.headers.get("accept", "")))
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(","):
        kind, *parameters = (item.strip().lower() for item in part.split(";"))
        weight = next((item[2:] for item in parameters if item.startswith("q=")), "1")
        try:
            found.append((kind, float(weight)))
        except ValueError:
            found.append((kind, 0.0))
    return found


def install(app: FastAPI, error_page: ErrorPage | None) -> None:
    """Answer every failure of `app` in a sentence."""

    def answer(request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
        if error_page is not None and is_html_preferred(request):
            response = error_page(request, status, sentence)
            response.headers.update(headers or {})
            return response
        return JSONResponse({"detail": sentence}, status, headers)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        if isinstance(error, SignInRequired) and request.method == "GET" and is_html_preferred(request):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/session?next={quote(wanted, safe='')}", 303)
        sentence = str(error.detail)
        if sentence == "Not Found" and not is_html_preferred(request):
            sentence = f"There is nothing at {request.url.path[:200]!r}: /docs lists what there is."
        return answer(request, error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 422, "; ".join(_sentence(item) for item in error.errors()))

    @app.exception_handler(HistoryUnavailable)
    def away(request: Request, error: HistoryUnavailable) -> Response:
        log.warning("%s", error)  # it names hosts: for the admin
        return answer(request, 503, "The history does not answer now: try again in a moment.", {"Retry-After": "5"})

    @app.exception_handler(HistoryError)
    def broken(request: Request, error: HistoryError) -> Response:
        log.error("%s", error)
        return answer(request, 500, "The history refused this question: the admin finds why in the log.")

    @app.exception_handler(ApiServerError)
    def unknown(request: Request, error: ApiServerError) -> Response:
        log.warning("%s", error)
        sentence = "Kubernetes cannot say now what you may see: try again in a moment."
        return answer(request, 503, sentence, {"Retry-After": "5"})

    @app.exception_handler(Exception)
    def failed(request: Request, _: Exception) -> Response:
        # Sent from outside of the middleware, which adds the headers otherwise.
        return answer(
            request, 500, "This is a fault of the web app: the admin finds why in the log.", get_security_headers("/")
        )


def _sentence(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"][1:] or item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    value = item.get("input")
    if item["type"] == "missing" or not isinstance(value, str | int | float | bool):
        return f"{place}: {message}"
    return f"{place}: {str(value)[:200]!r} is refused: {message}"
