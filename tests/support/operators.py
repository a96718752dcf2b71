"""Replicas of the operator as local processes, restarted as by a kubelet."""

import asyncio
import contextlib
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from support.ports import free_port
from trainingtask_api import names
from trainingtask_operator.settings import SETTINGS_VARIABLE

# The operator with another timeout of watches, and with a Lease that outlasts the pauses of a busy machine.
COMMAND = """\
import runpy
from trainingtask_operator.client import kubernetes, leader_election

kubernetes.WATCH_IDLE_SECONDS = {watch_seconds} or kubernetes.WATCH_IDLE_SECONDS
leader_election.LEASE_DURATION_SECONDS, leader_election.RENEW_DEADLINE_SECONDS = 40, 30.0
runpy.run_module("trainingtask_operator", run_name="__main__")
"""


class Operator:
    """One replica. It is restarted when it exits by itself.

    Attributes
    ----------
    unexpected_exits
        Exit codes of the exits that no test caused.
    """

    def __init__(
        self, log: Path, kubeconfig: Path, settings: Path, watch_timeout: float | None = None, **environment: str
    ) -> None:
        self.log = log
        self._command = ["-c", COMMAND.format(watch_seconds=watch_timeout)]
        self.unexpected_exits: list[int] = []
        self._health = free_port()
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != names.ENV_HISTORY_URL},
            "KUBECONFIG": str(kubeconfig),
            SETTINGS_VARIABLE: str(settings),
            names.ENV_HEALTH_PORT: str(self._health),
            names.ENV_METRICS_PORT: str(free_port()),
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._kubelet: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        await self._spawn()
        self._kubelet = asyncio.create_task(self._restart_on_exit())

    async def kill(self) -> None:
        """SIGKILL the process."""
        await self._end(signal.SIGKILL)

    async def stop(self, grace_period: float) -> int:
        """Send SIGTERM, and SIGKILL after the grace period; return the exit code."""
        try:
            async with asyncio.timeout(grace_period):
                return await self._end(signal.SIGTERM)
        except TimeoutError:
            return await self._end(signal.SIGKILL)

    async def _end(self, by: signal.Signals) -> int:
        if self._kubelet is not None:
            self._kubelet.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._kubelet
            self._kubelet = None
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(by)
        code = await self._process.wait()
        self._process = None
        return code

    async def restart(self) -> None:
        """SIGKILL the process, and start it again."""
        await self.kill()
        await self.start()

    async def wait_until_ready(self, role: str = "", timeout: float = 180) -> str:
        """Wait until it is ready, with this role if one is given; return the role."""
        async with asyncio.timeout(timeout):
            while True:
                current = await asyncio.to_thread(self._readyz)
                if current is not None and role in ("", current):
                    return current
                await asyncio.sleep(0.1)

    def find_defects(self) -> list[str]:
        """Return the log lines of defects: no injected fault may cause one."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "the reconcile failed" in line or "a background loop ended" in line]

    def _readyz(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=5) as response:
                return str(response.read().decode().strip())
        except (OSError, urllib.error.URLError):
            return None

    async def _spawn(self) -> None:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._command, env=self._environment, stdout=output, stderr=output
            )

    async def _restart_on_exit(self) -> None:
        while True:
            assert self._process is not None
            self.unexpected_exits.append(await self._process.wait())
            await asyncio.sleep(1)
            await self._spawn()


@asynccontextmanager
async def leader_and_standby(first: Operator, second: Operator) -> AsyncIterator[tuple[Operator, Operator]]:
    """Start two replicas, the first as the leader."""
    async with first:
        await first.wait_until_ready("leader")
        async with second:
            await second.wait_until_ready("standby")
            yield first, second
