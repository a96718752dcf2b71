"""What every answer carries and no request may: strict headers, a bounded body, and forms of this very site only."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
_TOO_LARGE = f"The body is too large: it may have {MAX_BODY} bytes."
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
# Asked for again each time, and answered with 304: a new release has new files under the same names.
_FILES = _STRICT | {"Cache-Control": "no-cache"}


def headers_for(path: str) -> dict[str, str]:
    """Return the headers of an answer."""
    if path.startswith(STATIC):
        return _FILES
    return _DOCS if path == "/docs" else _STRICT


class Strict:
    """ASGI middleware: adds the headers to every answer, and refuses bodies that are too large."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read = 0

        async def receive_some() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise HTTPException(413, _TOO_LARGE)
            return message

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers_for(scope["path"]))
            await send(message)

        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            await JSONResponse({"detail": _TOO_LARGE}, 413)(scope, receive, send_strictly)
        else:
            await self.app(scope, receive_some, send_strictly)


def require_this_site(request: Request) -> None:
    """Refuse a browser's request that another site caused.

    Raises
    ------
    HTTPException
        403. Browsers say where a request comes from; a request that does not say so is refused as well.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "")
    ours = site == "same-origin" if site is not None else urlsplit(origin).netloc == request.headers.get("host", "?")
    if not ours:
        raise HTTPException(403, "This request does not come from a page of this site, so its session does not count.")
