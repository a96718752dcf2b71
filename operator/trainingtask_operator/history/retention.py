"""Deletion of runs past their retention."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from trainingtask_history.errors import HistoryError
from trainingtask_history.maintenance import prune
from trainingtask_operator.history.recorder import RunRecorder

INTERVAL_SECONDS = 3600.0

log = logging.getLogger(__name__)


async def delete_expired_runs(recorder: RunRecorder, retention: timedelta) -> None:
    """Delete runs that finished longer ago than the retention, periodically until cancelled."""
    while True:
        engine = await recorder.wait_for_engine()
        before = datetime.now(UTC) - retention
        try:
            while deleted := await asyncio.to_thread(prune, engine, before):
                log.info("%d rows of runs that ended before %s are deleted", deleted, before.date())
        except HistoryError as error:
            log.warning("old runs stay for now: %s", error)
        await asyncio.sleep(INTERVAL_SECONDS)
