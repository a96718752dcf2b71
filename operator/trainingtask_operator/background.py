"""Loops beside the handlers: started, watched over and cancelled."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def start(loop: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a loop that is to run until it is cancelled."""
    task: asyncio.Task[None] = asyncio.create_task(loop)
    task.add_done_callback(_die_loudly)
    return task


async def cancel(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancel loops and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _die_loudly(task: "asyncio.Task[None]") -> None:
    """End the process when a loop fails: a restart is better than an operator that only looks alive."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("a background loop ended", exc_info=task.exception())
        os._exit(1)
