"""asyncio tasks that run beside the handlers until they are cancelled."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def start_background_task(coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a coroutine that runs until it is cancelled; end the process when it fails."""
    task: asyncio.Task[None] = asyncio.create_task(coroutine)
    task.add_done_callback(_exit_on_failure)
    return task


async def cancel_all(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancel the tasks and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _exit_on_failure(task: "asyncio.Task[None]") -> None:
    """End the process when a background task has failed: without it the operator would only look alive."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("a background loop ended", exc_info=task.exception())
        os._exit(1)
