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

from trainingtask_history.access import ALL, AccessScope
from trainingtask_history.queries import list_namespace_uids
from trainingtask_web.auth import audit
from trainingtask_web.auth.kubernetes import ApiServer, User
from trainingtask_web.auth.rate_limit import WINDOW_SECONDS, FailedAttempts
from trainingtask_web.http.errors import SignInNeeded, TooManyAttempts

CACHE_SECONDS = 30.0
UNKNOWN_SECONDS = 10.0
_MOST_CACHED = 10_000
# Kubernetes has tokens of several kinds, and no rule for all of them but what fits into a header.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_QUESTIONS_AT_ONCE = 8  # one for each namespace: of hundreds, one after another, nobody waits for the last


@dataclass(frozen=True)
class Principal:
    """Who asks, and which runs they may see."""

    name: str
    visible: AccessScope
    token: str | None = field(default=None, repr=False)
    """Their own, to do things as they; None where nobody is asked who they are."""
    by_session: bool = False
    """The browser sent the token by itself, so that another site may have caused the request."""


ANYBODY = Principal("anybody", ALL)


class Access:
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
        self._pool = ThreadPoolExecutor(_QUESTIONS_AT_ONCE, "access")
        self._clock = clock
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[float, Future[Principal | None]]] = OrderedDict()
        self._unknown: TTLCache[bytes, None] = TTLCache(_MOST_CACHED, UNKNOWN_SECONDS, clock)
        self._failed = FailedAttempts(clock)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    @property
    def is_open(self) -> bool:
        """Whether anybody may see everything."""
        return self._api is None

    def look(self, token: str, address: str = "") -> Principal | None:
        """Return who holds a token; None when nobody does. The address is the client's.

        Raises
        ------
        TooManyAttempts
            When the token is new, and too many others of this address, or of all, were unknown.
        ApiServerError, HistoryError
            When that cannot be said.
        """
        if self._api is None:
            return ANYBODY
        if _TOKEN.fullmatch(token) is None:
            return None
        key = hashlib.blake2b(token.encode(), key=self._key).digest()
        with self._lock:
            if key in self._unknown:
                return None
            until, answer = self._known.get(key, (0.0, None))
            if answer is None and self._failed.are_too_many(address):
                raise TooManyAttempts(WINDOW_SECONDS)
            if answer is not None and self._clock() < until:
                mine = False
            else:
                mine, answer = True, Future()
                self._known[key] = (self._clock() + CACHE_SECONDS, answer)
                self._known.move_to_end(key)
                if len(self._known) > _MOST_CACHED:
                    self._known.popitem(last=False)
        if mine:  # whoever asks the same meanwhile waits for this answer
            self._find_out(self._api, key, token, answer, address)
        return answer.result()

    def _find_out(
        self, api: ApiServer, key: bytes, token: str, answer: "Future[Principal | None]", address: str
    ) -> None:
        found: Principal | None = None
        try:
            user = api.token_review(token)
            if user is None:
                self._remember_unknown(key, address)
            else:
                found = Principal(user.name, self._visible(api, user), token)
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
        limited = self._failed.are_too_many(address)
        audit.record("authenticate", "limited" if limited else "refused", user=None, address=address)

    def _visible(self, api: ApiServer, user: User) -> AccessScope:
        if api.may(user, "list", None):
            return ALL
        living = api.namespaces()
        used = list_namespace_uids(self._engine)
        # Also the one in which POST creates: whoever creates its first run there looks for it at once.
        asked = {uid: name for uid, name in living.items() if uid in used or name == self._namespace}
        allowed = self._pool.map(lambda name: api.may(user, "list", name), asked.values())
        theirs = {uid: name for (uid, name), may in zip(asked.items(), allowed, strict=True) if may}
        return AccessScope(frozenset(theirs), theirs)


_BEARER = HTTPBearer(auto_error=False, description="A Kubernetes token, such as `kubectl create token NAME` prints.")


def principal(request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> Principal:
    """Return who asks, by the bearer token or the session's.

    Raises
    ------
    SignInNeeded
        401; a browser is sent to the page to sign in.
    TooManyAttempts
        429.
    """
    access: Access = request.app.state.access
    if access.is_open:
        return ANYBODY
    by_session = bearer is None and "authorization" not in request.headers
    token = request.app.state.sessions.token(request) if by_session else bearer and bearer.credentials
    if not token:
        raise SignInNeeded("Who are you? Send a Kubernetes token in the header 'Authorization: Bearer TOKEN'.")
    found = access.look(token, audit.address_of(request))
    if found is None:
        raise SignInNeeded("Kubernetes does not know this token, or it has expired.")
    return Principal(found.name, found.visible, token, by_session)


CurrentPrincipal = Annotated[Principal, Depends(principal)]
