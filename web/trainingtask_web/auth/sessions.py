"""Browser sessions: the server keeps the pasted token; the cookie holds a random id that no script can read."""

import secrets
import threading
import time
from collections.abc import Callable

from cachetools import TTLCache
from fastapi import Request
from fastapi.responses import Response

SESSION_SECONDS = 8 * 3600
MAX_SESSIONS_PER_USER = 10
MAX_SESSIONS_PER_NAMESPACE = 100
_MAX_SESSIONS = 5000


class SessionStore:
    """The sessions of this process; ending one invalidates every copy of its cookie."""

    def __init__(self, *, secure: bool, base_path: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._sessions: TTLCache[str, tuple[str, str]] = TTLCache(
            _MAX_SESSIONS, SESSION_SECONDS, clock
        )  # id -> user, token
        self._secure = secure
        self._path = base_path or "/"
        # With these prefixes, browsers refuse the cookie over plain http; with __Host-, which allows no path but /, also
        # from another host. On a host with a base path, other apps must not be sent the cookie.
        prefix = ("__Secure-" if base_path else "__Host-") if secure else ""
        self._name = f"{prefix}trainingtask"

    def get_token(self, request: Request) -> str | None:
        """Return the token of a request's session, None without one."""
        with self._lock:
            _, token = self._sessions.get(request.cookies.get(self._name, ""), (None, None))
            return token

    def begin(self, request: Request, response: Response, user: str, token: str) -> None:
        """Store a token and set the cookie with the session's id.

        The browser's previous session ends, and the user's oldest one above `MAX_SESSIONS_PER_USER`; of all ServiceAccounts
        of a namespace, whose users may create any number, that above `MAX_SESSIONS_PER_NAMESPACE`.
        """
        new_id = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions.pop(request.cookies.get(self._name, ""), None)
            group, most = _get_group(user)
            own = [key for key, (owner, _) in self._sessions.items() if _get_group(owner)[0] == group]
            for oldest in own[: max(0, len(own) + 1 - most)]:
                self._sessions.pop(oldest, None)
            self._sessions[new_id] = user, token
        response.set_cookie(
            self._name,
            new_id,
            max_age=SESSION_SECONDS,
            path=self._path,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )

    def end(self, request: Request, response: Response) -> str | None:
        """End a request's session and delete its cookie; return its user, None without a session."""
        with self._lock:
            user, _ = self._sessions.pop(request.cookies.get(self._name, ""), (None, None))
        response.delete_cookie(self._name, self._path, httponly=True, samesite="strict", secure=self._secure)
        return user


def _get_group(user: str) -> tuple[str, int]:
    """Return whose sessions count together with this user's, and how many they may be."""
    account = user.removeprefix("system:serviceaccount:")
    if account != user:
        return f"system:serviceaccount:{account.partition(':')[0]}", MAX_SESSIONS_PER_NAMESPACE
    return user, MAX_SESSIONS_PER_USER
