"""An event loop with virtual time: when all tasks wait, the clock jumps to the next timer.

For tests of what takes seconds and of races between timers: the load of the machine has no effect.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Add the timeout to the virtual time instead of waiting."""

    virtual_time = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.virtual_time += timeout or 0.0
        return super().select(None if timeout is None else 0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual_selector = _Selector()
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        return self._virtual_selector.virtual_time


def now() -> float:
    """Return the virtual time of the running loop."""
    return asyncio.get_running_loop().time()


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test in virtual time; it must not wait for threads, processes or sockets."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(*arguments, **named))

    return run
