"""Sign in with a token, and sign out; the page with the form is in `pages`."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from trainingtask_web.auth import audit
from trainingtask_web.http.middleware import get_site_path, require_same_origin

router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])


@router.post("/session")
def sign_in(request: Request, token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "") -> Response:
    """Begin a session with a token; redirect to the sign-in page with `problem` for an unknown one."""
    token, address = token.strip(), audit.get_client_address(request)
    target = next if _is_local_path(next) else get_site_path(request, "/runs")
    principal = request.app.state.authenticator.authenticate(token, address) if token else None
    if principal is None:
        query = f"problem=unknown&next={quote(target, safe='')}"
        return RedirectResponse(get_site_path(request, f"/session?{query}"), 303)
    response = RedirectResponse(target, 303)
    request.app.state.sessions.begin(request, response, principal.name, token)
    audit.record("sign-in", "ok", user=principal.name, address=address)
    return response


@router.post("/session/end")
def sign_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse(get_site_path(request, "/session"), 303)
    user = request.app.state.sessions.end(request, response)
    if user is not None:
        audit.record("sign-out", "ok", user=user, address=audit.get_client_address(request))
    return response


def _is_local_path(target: str) -> bool:
    # Browsers take '//host' and '/\host' for another site.
    return target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
