"""Who asks, and what they may see. The one way to both is `CurrentPrincipal`; the restriction itself is in the SQL."""

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

from trainingtask_history.queries import ALL, AccessScope, namespaces_with_runs
from trainingtask_web.auth import audit
from trainingtask_web.auth.kubernetes import ApiServer, User
from trainingtask_web.auth.rate_limit import WINDOW_SECONDS, FailureLimiter
from trainingtask_web.http.errors import SignInRequired, TooManyAttempts

CACHE_SECONDS = 30.0
UNKNOWN_CACHE_SECONDS = 10.0
_MAX_CACHED = 10_000
# Kubernetes has tokens of several kinds, and no rule for all of them but what fits into a header.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_MAX_CONCURRENT_REVIEWS = 8  # one for each namespace: of hundreds, one after another, nobody waits for the last


@dataclass(frozen=True)
class Principal:
    """Who asks, and which runs they may see."""

    name: str
    scope: AccessScope
    token: str | None = field(default=None, repr=False)
    """Their own, to do things as they; None where nobody is asked who they are."""
    by_session: bool = False
    """The browser sent the token by itself, so that another site may have caused the request."""


ANONYMOUS = Principal("anybody", ALL)


class Authenticator:
    """Asks Kubernetes who holds a token and what they may see, and remembers the answers for a while."""

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
        self._failed = FailureLimiter(clock)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    @property
    def is_disabled(self) -> bool:
        """Whether anybody may see everything."""
        return self._api is None

    def authenticate(self, token: str, address: str = "") -> Principal | None:
        """Return who holds a token; None when nobody does. The address is the client's.

        Raises
        ------
        TooManyAttempts
            When the token is new, and too many others of this address, or of all, were unknown.
        ApiServerError, HistoryError
            When that cannot be said.
        """
        if self._api is None:
            return ANONYMOUS
        if _TOKEN.fullmatch(token) is None:
            return None
        key = hashlib.blake2b(token.encode(), key=self._key).digest()
        with self._lock:
            if key in self._unknown:
                return None
            until, answer = self._known.get(key, (0.0, None))
            if answer is None and self._failed.is_exceeded(address):
                raise TooManyAttempts(WINDOW_SECONDS)
            if answer is not None and self._clock() < until:
                mine = False
            else:
                mine, answer = True, Future()
                self._known[key] = (self._clock() + CACHE_SECONDS, answer)
                self._known.move_to_end(key)
                if len(self._known) > _MAX_CACHED:
                    self._known.popitem(last=False)
        if mine:  # whoever asks the same meanwhile waits for this answer
            self._resolve(self._api, key, token, answer, address)
        return answer.result()

    def _resolve(
        self, api: ApiServer, key: bytes, token: str, answer: "Future[Principal | None]", address: str
    ) -> None:
        found: Principal | None = None
        try:
            user = api.review_token(token)
            if user is None:
                self._remember_unknown(key, address)
            else:
                found = Principal(user.name, self._resolve_scope(api, user), token)
            answer.set_result(found)
        except BaseException as error:
            answer.set_exception(error)
            raise
        finally:
            if found is None:  # no failure of the API server is remembered
                with self._lock:
                    self._known.pop(key, None)

    def _remember_unknown(self, key: bytes, address: str) -> None:
        """Refuse the token for a while; the audit log has a line for each review, so that no flood can fill it."""
        with self._lock:
            self._unknown[key] = None
        self._failed.add(address)
        limited = self._failed.is_exceeded(address)
        audit.record("authenticate", "limited" if limited else "refused", user=None, address=address)

    def _resolve_scope(self, api: ApiServer, user: User) -> AccessScope:
        if api.is_allowed(user, "list", None):
            return ALL
        living = api.list_namespaces()
        used = namespaces_with_runs(self._engine)
        # Also the one in which POST creates: whoever creates its first run there looks for it at once.
        asked = {uid: name for uid, name in living.items() if uid in used or name == self._namespace}
        allowed = self._pool.map(lambda name: api.is_allowed(user, "list", name), asked.values())
        theirs = {uid: name for (uid, name), may in zip(asked.items(), allowed, strict=True) if may}
        return AccessScope(frozenset(theirs), theirs)


_BEARER = HTTPBearer(auto_error=False, description="A Kubernetes token, such as `kubectl create token NAME` prints.")


def get_principal(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
) -> Principal:
    """Return who asks, by the bearer token or the session's.

    Raises
    ------
    SignInRequired
        401; a browser is sent to the page to sign in.
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
    found = authenticator.authenticate(token, audit.client_address(request))
    if found is None:
        raise SignInRequired("Kubernetes does not know this token, or it has expired.")
    return Principal(found.name, found.scope, token, by_session)


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]
