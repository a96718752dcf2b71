"""A database that refuses, hangs, or breaks off: it delays no task, and in the end every row is there."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.postgres import Postgres
from support.tasks_on_cluster import (
    CRASHES,
    JOBS,
    MISTAKEN,
    SUCCEEDS,
    TASKS,
    Scene,
    eventually,
    owner_of,
    read_rows,
    true_conditions,
)
from support.tcp_proxy import TcpProxy
from trainingtask_api import names

ENDINGS = [SUCCEEDS, SUCCEEDS, MISTAKEN, CRASHES]


@dataclass
class Through:
    """A database and the way to it that a test may break."""

    proxy: TcpProxy
    history: str  # directly
    broken: str  # through the proxy


@pytest.fixture
async def database(postgres_server: Postgres, history: str) -> AsyncIterator[Through]:
    async with TcpProxy(postgres_server.port) as proxy:
        yield Through(proxy, history, history.replace(f":{postgres_server.port}/", f":{proxy.port}/"))


@dataclass
class Delays:
    """How long after its Job's end each task's own status says the end, in seconds."""

    here: Scene
    job_ended: dict[str, float] = field(default_factory=dict)  # uid of the task -> when it was seen
    task_ended: dict[str, float] = field(default_factory=dict)

    async def watch(self) -> None:
        root = f"/namespaces/{self.here.namespace}"
        await asyncio.gather(
            self._watch(f"{JOBS}{root}/jobs", self.job_ended, owner_of),
            self._watch(f"{TASKS}{root}/{names.PLURAL}", self.task_ended, lambda item: item["metadata"]["uid"]),
        )

    async def _watch(self, path: str, ended: dict[str, float], uid: Any) -> None:
        async for _, item in self.here.api.watch(path):
            if true_conditions(item) & {"Complete", "Failed"}:
                ended.setdefault(uid(item), time.monotonic())

    def longest(self) -> float:
        return max(when - self.job_ended[uid] for uid, when in self.task_ended.items())


async def run_tasks(here: Scene, prefix: str, number: int) -> float:
    """Run so many tasks at once; return the longest delay."""
    delays = Delays(here)
    watching = asyncio.create_task(delays.watch())
    for n in range(number):
        await here.create(f"{prefix}-{n}", ENDINGS[n % len(ENDINGS)], runPolicy__retries=0)
    uids = {t["metadata"]["uid"] for name, t in (await here.tasks()).items() if name.startswith(prefix)}

    async def all_ended() -> bool:
        return uids <= delays.task_ended.keys() and uids <= delays.job_ended.keys()

    await eventually("all tasks have ended", all_ended, 60 + number)
    watching.cancel()
    kept = Delays(here, delays.job_ended, {uid: delays.task_ended[uid] for uid in uids})
    return kept.longest()


async def break_it(proxy: TcpProxy, how: str) -> None:
    if how == "refuses":
        await proxy.close()
    elif how == "hangs":
        proxy.is_stalled = True
    else:  # dies in a transaction, with rows in it, once before and once after its end
        proxy.cut_at, proxy.cut_after, proxy.cuts = b"COMMIT", how.endswith("after its end"), 3


async def repair(proxy: TcpProxy) -> None:
    await proxy.close()
    proxy.is_stalled, proxy.cuts = False, 0
    await proxy.open()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("refuses", marks=pytest.mark.full),
        pytest.param("hangs", marks=pytest.mark.full),
        "dies in a transaction before its end",
        pytest.param("dies in a transaction after its end", marks=pytest.mark.full),
    ],
)
async def test_database_delays_no_task(here: Scene, database: Through, how: str) -> None:
    """Nothing is more than a second slower than with a database that works."""
    async with here.operator(history=database.broken) as operator:
        await operator.ready()
        usual = await run_tasks(here, "usual", 8)
        await break_it(database.proxy, how)
        delay = await run_tasks(here, "broken", 8)
        print(f"longest delay: {usual:.2f} s with a database that works, {delay:.2f} s with one that {how}")
        assert delay <= usual + 1
        await repair(database.proxy)
        await here.rows_match(database.history)
        assert not operator.defects()
        assert not operator.ended


@pytest.mark.parametrize("how", ["refuses", pytest.param("hangs", marks=pytest.mark.full)])
async def test_database_away_while_tasks_end_and_the_operator_restarts(
    here: Scene, database: Through, how: str, sizes: Any
) -> None:
    number = sizes.tasks_without_database
    images = {f"task-{n}": ENDINGS[n % len(ENDINGS)] for n in range(number)}
    async with here.operator(history=database.broken) as operator:
        await break_it(database.proxy, how)
        gone_since = time.monotonic()
        for name, image in images.items():
            await here.create(name, image, runPolicy__retries=0)
        await here.jobs_ended(number // 2, timeout=60 + number)
        await operator.restart()
        await here.jobs_ended(number, timeout=60 + number)
        await here.tasks_ended()
        await here.check(images)
        await operator.restart()
        await operator.ready()
        await asyncio.sleep(max(0.0, gone_since + sizes.database_away_seconds - time.monotonic()))
        await repair(database.proxy)
        returned = time.monotonic()
        await here.rows_match(database.history, timeout=60)
        print(f"{len(read_rows(database.history))} rows exact {time.monotonic() - returned:.1f} s after the return")
        assert not operator.defects()
        assert not operator.ended
