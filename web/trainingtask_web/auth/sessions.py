"""A browser's session: a token that was pasted once, kept here; the cookie holds a random id that no script can read."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

from cachetools import TTLCache
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from trainingtask_web.auth import audit
from trainingtask_web.http.middleware import require_same_origin

SESSION_SECONDS = 8 * 3600
MAX_SESSIONS_PER_USER = 10
_MAX_SESSIONS = 5000

router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])


class SessionStore:
    """The sessions of this process: none outlives it, and one that was ended is gone for every copy of its cookie."""

    def __init__(self, *, secure: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._sessions: TTLCache[str, tuple[str, str]] = TTLCache(
            _MAX_SESSIONS, SESSION_SECONDS, clock
        )  # id -> user and token
        self._secure = secure
        # The prefix makes browsers refuse such a cookie from any other host and over plain http.
        self._name = "__Host-trainingtask" if secure else "trainingtask"

    def get_token(self, request: Request) -> str | None:
        """Return the token of a request's session; None without one, or when it has ended."""
        with self._lock:
            _, token = self._sessions.get(request.cookies.get(self._name, ""), (None, None))
            return token

    def begin(self, request: Request, response: Response, user: str, token: str) -> None:
        """Keep a token and put the session's id into a cookie.

        The browser's session before ends, and a user's oldest one when there are too many of theirs.
        """
        new = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions.pop(request.cookies.get(self._name, ""), None)
            theirs = [key for key, (owner, _) in self._sessions.items() if owner == user]
            for oldest in theirs[: max(0, len(theirs) + 1 - MAX_SESSIONS_PER_USER)]:
                self._sessions.pop(oldest, None)
            self._sessions[new] = user, token
        response.set_cookie(
            self._name, new, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=self._secure
        )

    def end(self, request: Request, response: Response) -> str | None:
        """Forget a request's session and delete its cookie; return whose it was."""
        with self._lock:
            user, _ = self._sessions.pop(request.cookies.get(self._name, ""), (None, None))
        response.delete_cookie(self._name, httponly=True, samesite="strict", secure=self._secure)
        return user


@router.post("/session")
def sign_in(request: Request, token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/runs") -> Response:
    """Begin a session with a token; back to the page to sign in, with `problem`, when that cannot be."""
    token, address = token.strip(), audit.client_address(request)
    target = next if _is_local_path(next) else "/runs"
    found = request.app.state.authenticator.authenticate(token, address) if token else None
    if found is None:
        return RedirectResponse(f"/session?problem=unknown&next={quote(target, safe='')}", 303)
    response = RedirectResponse(target, 303)
    request.app.state.sessions.begin(request, response, found.name, token)
    audit.record("sign-in", "ok", user=found.name, address=address)
    return response


@router.post("/session/end")
def sign_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/session", 303)
    user = request.app.state.sessions.end(request, response)
    if user is not None:
        audit.record("sign-out", "ok", user=user, address=audit.client_address(request))
    return response


def _is_local_path(target: str) -> bool:
    # Browsers read '//host' and '/\host' as another site.
    return target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
