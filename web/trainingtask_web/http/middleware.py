"""What every answer carries and no request may: strict headers, a bounded body, known hosts, and forms of this very site only."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
CROSS_SITE = "This request does not come from a page of this site, so its session does not count."
_TOO_LARGE = f"The body is too large: it may have {MAX_BODY_BYTES} bytes."
# The kubelet asks for these by the pod's address.
_HEALTH_PATHS = ("/healthz", "/readyz")
_HOST_HEADER = re.compile(r"\[?([\w.:-]+?)\]?(?::\d{1,5})?", re.ASCII)
# Files that are the same for everybody.
STATIC = ("/static/", "/docs/files/")

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}
# Swagger UI sets styles of its own, and its style sheet holds its pictures.
_DOCS_POLICY = _POLICY | {"style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:"}


def _policy(sources: Mapping[str, str]) -> str:
    return "; ".join(f"{kind} {allowed}" for kind, allowed in sources.items())


# Not 'no-referrer': forms would come with 'Origin: null', which over plain http is all that tells where they are from.
_COMMON = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
_STRICT = _COMMON | {"Content-Security-Policy": _policy(_POLICY), "Cache-Control": "no-store"}
_DOCS = _STRICT | {"Content-Security-Policy": _policy(_DOCS_POLICY)}
# Browsers heed it on https alone, so that the header of a proxy, trusted or not, does to tell.
_HSTS = {"Strict-Transport-Security": "max-age=31536000"}
# Asked for again each time, and answered with 304: a new release has new files under the same names.
_FILES = _STRICT | {"Cache-Control": "no-cache"}


def get_security_headers(path: str) -> dict[str, str]:
    """Return the headers of an answer."""
    if path.startswith(STATIC):
        return _FILES
    return _DOCS if path == "/docs" else _STRICT


class SecurityHeadersMiddleware:
    """ASGI middleware: adds the headers to every answer, and refuses unknown hosts and bodies that are too large."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(get_security_headers(scope["path"]) | (_HSTS if is_https else {}))
            await send(message)

        headers = Headers(scope=scope)
        is_https = "https" in (scope["scheme"], headers.get("x-forwarded-proto"))
        host = headers.get("host", "")
        length = headers.get("content-length", "0")
        if not (scope["path"] in _HEALTH_PATHS or self._is_served_host(host)):
            sentence = f"Host {host[:200]!r} is refused: the admin names it in web.hosts (TRAININGTASK_WEB_HOSTS)."
            await JSONResponse({"detail": sentence}, 400)(scope, receive, send_with_headers)
        elif length.isdecimal() and int(length) > MAX_BODY_BYTES:
            await JSONResponse({"detail": _TOO_LARGE}, 413)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive_bounded, send_with_headers)

    def _is_served_host(self, host: str) -> bool:
        found = _HOST_HEADER.fullmatch(host)
        return found is not None and found[1].lower() in self.hosts


def is_same_origin(request: Request) -> bool:
    """Return whether a browser says that a page of this site caused its request; one that does not say counts as another's."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    try:
        return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "?")
    except ValueError:
        return False


def require_same_origin(request: Request) -> None:
    """Refuse a browser's request that another site caused.

    Raises
    ------
    HTTPException
        403.
    """
    if not is_same_origin(request):
        raise HTTPException(403, CROSS_SITE)
