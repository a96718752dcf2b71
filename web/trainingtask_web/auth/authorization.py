"""Who sends a request and which runs they may see; routes get both as `CurrentPrincipal`, and SQL restricts the rows."""

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine

from trainingtask_history.access import ALL, AccessScope
from trainingtask_history.queries import list_namespace_uids
from trainingtask_web.auth import audit
from trainingtask_web.auth.errors import SignInRequired, TooManyAttempts
from trainingtask_web.auth.kubernetes import ApiServer, User
from trainingtask_web.auth.rate_limit import WINDOW_SECONDS, FailureLimiter

CACHE_SECONDS = 30.0
UNKNOWN_CACHE_SECONDS = 10.0
_MAX_CACHED = 10_000
# Kubernetes has tokens of several kinds; all that they share is that they fit into a header.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_MAX_CONCURRENT_REVIEWS = 8  # one per namespace: one after another, hundreds of them would take too long


@dataclass(frozen=True)
class Principal:
    """The sender of a request, and the scope of the runs that they may see."""

    name: str
    scope: AccessScope
    token: str | None = field(default=None, repr=False)
    """Their token, to create tasks with; None without authentication."""
    by_session: bool = False
    """The browser sent the session's cookie by itself, so that another site may have caused the request."""


ANONYMOUS = Principal("anybody", ALL)


class Authenticator:
    """Authenticates and authorizes tokens by the Kubernetes API, and caches the results."""

    def __init__(
        self,
        engine: Engine,
        api: ApiServer | None,
        namespace: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._api = api
        self._namespace = namespace
        self._pool = ThreadPoolExecutor(_MAX_CONCURRENT_REVIEWS, "authenticator")
        self._clock = clock
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[float, Future[Principal | None]]] = OrderedDict()
        self._unknown: TTLCache[bytes, None] = TTLCache(_MAX_CACHED, UNKNOWN_CACHE_SECONDS, clock)
        self._failures = FailureLimiter(clock)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    @property
    def is_disabled(self) -> bool:
        """Whether every request is anonymous and sees all runs."""
        return self._api is None

    def authenticate(self, token: str, address: str = "") -> Principal | None:
        """Return the principal of a token, None for an unknown one. The address is the client's.

        Raises
        ------
        TooManyAttempts
            When the token is new, and too many others of this address, or of all, were unknown.
        ApiServerError, HistoryError
            When the API server or the history does not answer.
        """
        if self._api is None:
            return ANONYMOUS
        if _TOKEN.fullmatch(token) is None:
            return None
        key = hashlib.blake2b(token.encode(), key=self._key).digest()
        with self._lock:
            if key in self._unknown:
                return None
            expires, result = self._known.get(key, (0.0, None))
            if result is None and self._failures.is_exceeded(address):
                raise TooManyAttempts(WINDOW_SECONDS)
            is_cached = result is not None and self._clock() < expires
            if result is None or not is_cached:
                result = self._add_pending(key)
        if not is_cached:
            self._resolve(self._api, key, token, result, address)
        return result.result()  # concurrent requests with the same token wait for one review

    def _add_pending(self, key: bytes) -> "Future[Principal | None]":
        result: Future[Principal | None] = Future()
        self._known[key] = (self._clock() + CACHE_SECONDS, result)
        self._known.move_to_end(key)
        if len(self._known) > _MAX_CACHED:
            self._known.popitem(last=False)
        return result

    def _resolve(
        self, api: ApiServer, key: bytes, token: str, result: "Future[Principal | None]", address: str
    ) -> None:
        principal: Principal | None = None
        try:
            user = api.review_token(token)
            if user is None:
                self._add_unknown(key, address)
            else:
                principal = Principal(user.name, self._resolve_scope(api, user), token)
            result.set_result(principal)
        except BaseException as error:
            result.set_exception(error)
            raise
        finally:
            if principal is None:  # failures of the API server are not cached
                with self._lock:
                    self._known.pop(key, None)

    def _add_unknown(self, key: bytes, address: str) -> None:
        """Refuse the token for a while; the audit log gets one line per review, so that no flood can fill it."""
        with self._lock:
            self._unknown[key] = None
        self._failures.add(address)
        limited = self._failures.is_exceeded(address)
        audit.record("authenticate", "limited" if limited else "refused", user=None, address=address)

    def _resolve_scope(self, api: ApiServer, user: User) -> AccessScope:
        if api.is_allowed(user, "list", None):
            return ALL
        existing = api.list_namespaces()
        used = list_namespace_uids(self._engine)
        # Also the namespace in which POST creates: its first run has to be visible at once.
        candidates = {uid: name for uid, name in existing.items() if uid in used or name == self._namespace}
        allowed = self._pool.map(lambda name: api.is_allowed(user, "list", name), candidates.values())
        visible = {uid: name for (uid, name), is_allowed in zip(candidates.items(), allowed, strict=True) if is_allowed}
        return AccessScope(frozenset(visible), visible)


_BEARER = HTTPBearer(auto_error=False, description="A Kubernetes token, such as `kubectl create token NAME` prints.")


def get_principal(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
) -> Principal:
    """Return the principal of the bearer token, else of the session.

    Raises
    ------
    SignInRequired
        401; a browser is redirected to the sign-in page.
    TooManyAttempts
        429.
    """
    authenticator: Authenticator = request.app.state.authenticator
    if authenticator.is_disabled:
        return ANONYMOUS
    by_session = bearer is None and "authorization" not in request.headers
    token = request.app.state.sessions.get_token(request) if by_session else bearer and bearer.credentials
    if not token:
        raise SignInRequired("Who are you? Send a Kubernetes token in the header 'Authorization: Bearer TOKEN'.")
    principal = authenticator.authenticate(token, audit.get_client_address(request))
    if principal is None:
        raise SignInRequired("Kubernetes does not know this token, or it has expired.")
    return Principal(principal.name, principal.scope, token, by_session)


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]
