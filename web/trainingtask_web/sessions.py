"""A browser's session: a token that was pasted once, kept encrypted in a cookie that no script can read."""

from typing import Annotated
from urllib.parse import quote

from cryptography.fernet import Fernet, InvalidToken
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from trainingtask_web.security import require_this_site

SESSION_SECONDS = 8 * 3600
_LONGEST_COOKIE = 4000  # browsers drop longer ones without a word

router = APIRouter(include_in_schema=False, dependencies=[Depends(require_this_site)])


class Sessions:
    """Seals tokens into cookies and opens them again."""

    def __init__(self, key: bytes | None, *, secure: bool) -> None:
        self._fernet = Fernet(key or Fernet.generate_key())
        self._secure = secure
        # The prefix makes browsers refuse such a cookie from any other host and over plain http.
        self._name = "__Host-trainingtask" if secure else "trainingtask"

    def token(self, request: Request) -> str | None:
        """Return the token of a request's session; None without one, or when it has ended."""
        sealed = request.cookies.get(self._name)
        if sealed is None:
            return None
        try:
            return self._fernet.decrypt(sealed.encode(), ttl=SESSION_SECONDS).decode()
        except InvalidToken:
            return None

    def begin(self, response: Response, token: str) -> bool:
        """Put a token into a cookie; return False when it is too long for one."""
        sealed = self._fernet.encrypt(token.encode()).decode()
        if len(sealed) > _LONGEST_COOKIE:
            return False
        response.set_cookie(
            self._name, sealed, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=self._secure
        )
        return True

    def end(self, response: Response) -> None:
        """Delete the cookie."""
        response.delete_cookie(self._name, httponly=True, samesite="strict", secure=self._secure)


@router.post("/session")
def sign_in(request: Request, token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/runs") -> Response:
    """Begin a session with a token; back to the page to sign in, with `problem`, when that cannot be."""
    token = token.strip()
    target = next if _is_of_this_site(next) else "/runs"
    response = RedirectResponse(target, 303)
    if not token or request.app.state.access.look(token) is None:
        problem = "unknown"
    elif not request.app.state.sessions.begin(response, token):
        problem = "long"
    else:
        return response
    return RedirectResponse(f"/session?problem={problem}&next={quote(target, safe='')}", 303)


@router.post("/session/end")
def sign_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/session", 303)
    request.app.state.sessions.end(response)
    return response


def _is_of_this_site(target: str) -> bool:
    # Browsers read '//host' and '/\host' as another site.
    return target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
