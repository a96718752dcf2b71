"""Limits for the trainers' sessions in the history database: what they lock must not keep the operator waiting."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from sqlalchemy import Engine

from trainingtask_history.errors import HistoryError, HistoryUnavailable
from trainingtask_history.roles import end_blocking_sessions, end_long_transactions

log = logging.getLogger(__name__)

LONG_TRANSACTIONS_SECONDS = 30.0
BLOCKING_SESSIONS_SECONDS = 0.2


async def limit_transactions(engine: Engine) -> None:
    """End trainers' long transactions periodically until cancelled: their locks would delay a migration."""
    while True:
        try:
            if ended := await asyncio.to_thread(end_long_transactions, engine):
                log.warning("%d sessions of trainers were ended: their transactions had lasted too long", ended)
        except HistoryUnavailable:
            pass  # logged where rows are written
        except HistoryError as error:
            log.warning("transactions of trainers are not bounded: %s", error)
        await asyncio.sleep(LONG_TRANSACTIONS_SECONDS)


@contextlib.asynccontextmanager
async def ending_blocking_sessions(engine: Engine) -> AsyncIterator[None]:
    """End the trainers' sessions for which the statements inside have to wait."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(BLOCKING_SESSIONS_SECONDS)
            with contextlib.suppress(HistoryError):  # the statements inside raise it as well
                if ended := await asyncio.to_thread(end_blocking_sessions, engine):
                    log.warning("%d sessions of trainers were ended: the operator waited for them", ended)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
