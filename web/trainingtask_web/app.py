"""The web app: the API, the pages, the replaced service's routes, and the health checks.

Routes take the principal as `authorization.CurrentPrincipal` and the history from `app.state.engine`.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy import Engine

from trainingtask_history import queries
from trainingtask_history.engine import open_history
from trainingtask_web.auth.authorization import Authenticator
from trainingtask_web.auth.kubernetes import ApiServer
from trainingtask_web.auth.sessions import SessionStore
from trainingtask_web.http import errors, swagger
from trainingtask_web.http.middleware import BasePathMiddleware, SecurityHeadersMiddleware
from trainingtask_web.routes import api, legacy, pages, session
from trainingtask_web.routes.rendering import render_error_page
from trainingtask_web.settings import AuthMode, Settings

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = "All training runs, across namespaces and after their tasks are gone. You see what you may list."


def create_app(settings: Settings, api_server: ApiServer | None = None) -> FastAPI:
    """Return the app; nothing connects before the first request.

    Raises
    ------
    HistoryError
        When the history's URL is unusable.
    ValueError
        When `api_server` does not go with the settings' `auth`.
    """
    if (api_server is None) != (settings.auth is AuthMode.NONE):
        raise ValueError("an API server goes with auth 'kubernetes', and none with auth 'none'")
    engine = open_history(settings.history_url.get_secret_value())
    authenticator = Authenticator(engine, api_server, settings.namespace)

    @contextlib.asynccontextmanager
    async def manage_lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        yield
        authenticator.close()
        engine.dispose()
        if api_server is not None:
            api_server.close()

    app = FastAPI(
        title="TrainingTask",
        description=_DESCRIPTION,
        version="v1",
        docs_url=None,
        redoc_url=None,
        lifespan=manage_lifespan,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.authenticator = authenticator
    app.state.sessions = SessionStore(secure=settings.secure_cookie, base_path=settings.base_path)
    app.state.api_server = api_server
    app.add_middleware(SecurityHeadersMiddleware, hosts=frozenset(settings.hosts))
    if settings.base_path:
        app.add_middleware(BasePathMiddleware, base_path=settings.base_path)
    app.include_router(api.router)
    app.include_router(legacy.router)
    if api_server is not None:
        app.include_router(legacy.create_router)
        app.include_router(session.router)
    swagger.add_routes(app)
    _add_health_checks(app, engine)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    errors.add_exception_handlers(app, render_error_page)
    return app


def _add_health_checks(app: FastAPI, engine: Engine) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> PlainTextResponse:
        queries.ping(engine)
        return PlainTextResponse("ok\n")
