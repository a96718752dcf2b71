"""Security headers on every response, and the bounds of a request: its body, its host, and the site that caused it."""

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
# The kubelet requests these by the pod's address.
_HEALTH_PATHS = ("/healthz", "/readyz")
_HOST_HEADER = re.compile(r"\[?([\w.:-]+?)\]?(?::\d{1,5})?", re.ASCII)
_STATIC_PREFIXES = ("/static/", "/docs/files/")

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
# Swagger UI sets inline styles, and its style sheet embeds images.
_DOCS_POLICY = _POLICY | {"style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:"}


def _format_csp(sources: Mapping[str, str]) -> str:
    return "; ".join(f"{kind} {allowed}" for kind, allowed in sources.items())


# Not 'no-referrer': forms would send 'Origin: null', and over plain http the origin alone shows their site.
_COMMON_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
_DEFAULT_HEADERS = _COMMON_HEADERS | {"Content-Security-Policy": _format_csp(_POLICY), "Cache-Control": "no-store"}
_DOCS_HEADERS = _DEFAULT_HEADERS | {"Content-Security-Policy": _format_csp(_DOCS_POLICY)}
# Browsers heed it over https alone, so X-Forwarded-Proto decides whether the proxy is trusted or not.
_HSTS = {"Strict-Transport-Security": "max-age=31536000"}
# Revalidated each time: a new release has new files under the same names.
_STATIC_HEADERS = _DEFAULT_HEADERS | {"Cache-Control": "no-cache"}


def get_security_headers(path: str) -> dict[str, str]:
    """Return the security headers of the response to a path."""
    if path.startswith(_STATIC_PREFIXES):
        return _STATIC_HEADERS
    return _DOCS_HEADERS if path == "/docs" else _DEFAULT_HEADERS


class BasePathMiddleware:
    """ASGI middleware: serves the app below a base path, whether a proxy in front passes it on or removes it."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self.app = app
        self.base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request whose path begins with the base path, or stands below it."""
        if scope["type"] == "http":
            path = scope["path"]
            is_whole = f"{path}/".startswith(f"{self.base_path}/")
            scope = {**scope, "root_path": self.base_path, "path": path if is_whole else self.base_path + path}
        await self.app(scope, receive, send)


class SecurityHeadersMiddleware:
    """ASGI middleware: adds the headers to every response, and refuses unknown hosts and bodies that are too large."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or refuse it with 400 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read = 0
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # a mounted app changes both

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(get_security_headers(path) | (_HSTS if is_https else {}))
            await send(message)

        headers = Headers(scope=scope)
        is_https = "https" in (scope["scheme"], headers.get("x-forwarded-proto"))
        host = headers.get("host", "")
        length = headers.get("content-length", "0")
        if not (path in _HEALTH_PATHS or self._is_served_host(host)):
            sentence = f"Host {host[:200]!r} is refused: the admin names it in web.hosts (TRAININGTASK_WEB_HOSTS)."
            await JSONResponse({"detail": sentence}, 400)(scope, receive, send_with_headers)
        elif length.isdecimal() and int(length) > MAX_BODY_BYTES:
            await JSONResponse({"detail": _TOO_LARGE}, 413)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive_bounded, send_with_headers)

    def _is_served_host(self, host: str) -> bool:
        match = _HOST_HEADER.fullmatch(host)
        return match is not None and match[1].lower() in self.hosts


def get_site_path(request: Request, path: str) -> str:
    """Return the path under which a browser reaches a page of this app."""
    return f"{request.app.state.settings.base_path}{path}"


def is_same_origin(request: Request) -> bool:
    """Return whether Sec-Fetch-Site, else Origin, names this site; a request with neither counts as cross-site."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    try:
        return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "?")
    except ValueError:
        return False


def require_same_origin(request: Request) -> None:
    """Refuse a cross-site request.

    Raises
    ------
    HTTPException
        403.
    """
    if not is_same_origin(request):
        raise HTTPException(403, CROSS_SITE)
