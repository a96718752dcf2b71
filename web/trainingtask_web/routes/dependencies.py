"""What several routes need of a request: the history's engine, and a run that its principal may see."""

import uuid

from fastapi import Request
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from trainingtask_history import queries
from trainingtask_history.read_models import RunDetail
from trainingtask_web.auth.authorization import Principal
from trainingtask_web.http.errors import RUN_NOT_FOUND


def get_engine(request: Request) -> Engine:
    """Return the history's engine."""
    engine: Engine = request.app.state.engine
    return engine


def get_run_or_404(request: Request, principal: Principal, key: uuid.UUID) -> RunDetail:
    """Return a run.

    Raises
    ------
    HTTPException
        404, when there is none in the principal's scope.
    """
    run = queries.get_run(get_engine(request), principal.scope, key)
    if run is None:
        raise HTTPException(404, RUN_NOT_FOUND)
    return run
