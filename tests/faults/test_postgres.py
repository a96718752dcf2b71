"""A database that refuses, hangs, or breaks off: it delays no task, and in the end every row is there."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.postgres import Postgres
from support.task_namespace import (
    CRASHES,
    JOBS,
    MISTAKEN,
    SUCCEEDS,
    TASKS,
    TaskNamespace,
    eventually,
    get_owner_uid,
    get_true_conditions,
    read_rows,
)
from support.tcp_proxy import TcpProxy
from trainingtask_api import names

ENDINGS = [SUCCEEDS, SUCCEEDS, MISTAKEN, CRASHES]


@dataclass
class ProxiedDatabase:
    """A database and the way to it that a test may break."""

    proxy: TcpProxy
    history: str  # directly
    broken: str  # through the proxy


@pytest.fixture
async def database(postgres_server: Postgres, history: str) -> AsyncIterator[ProxiedDatabase]:
    async with TcpProxy(postgres_server.port) as proxy:
        yield ProxiedDatabase(proxy, history, history.replace(f":{postgres_server.port}/", f":{proxy.port}/"))


@dataclass
class Delays:
    """Seconds from the end of each Job to the terminal status of its task."""

    namespace: TaskNamespace
    job_ended: dict[str, float] = field(default_factory=dict)  # uid of the task -> time of the event
    task_ended: dict[str, float] = field(default_factory=dict)

    async def watch(self) -> None:
        root = f"/namespaces/{self.namespace.name}"
        await asyncio.gather(
            self._watch(f"{JOBS}{root}/jobs", self.job_ended, get_owner_uid),
            self._watch(f"{TASKS}{root}/{names.PLURAL}", self.task_ended, lambda item: item["metadata"]["uid"]),
        )

    async def _watch(self, path: str, ended: dict[str, float], uid: Any) -> None:
        async for _, item in self.namespace.api.watch(path):
            if get_true_conditions(item) & {"Complete", "Failed"}:
                ended.setdefault(uid(item), time.monotonic())

    def longest(self) -> float:
        return max(when - self.job_ended[uid] for uid, when in self.task_ended.items())


async def run_tasks(namespace: TaskNamespace, prefix: str, number: int) -> float:
    """Run so many tasks at once; return the longest delay."""
    delays = Delays(namespace)
    watching = asyncio.create_task(delays.watch())
    for n in range(number):
        await namespace.create(f"{prefix}-{n}", ENDINGS[n % len(ENDINGS)], runPolicy__retries=0)
    uids = {t["metadata"]["uid"] for name, t in (await namespace.list_tasks()).items() if name.startswith(prefix)}

    async def all_ended() -> bool:
        return uids <= delays.task_ended.keys() and uids <= delays.job_ended.keys()

    await eventually("all tasks have ended", all_ended, 180 + number)
    watching.cancel()
    own = Delays(namespace, delays.job_ended, {uid: delays.task_ended[uid] for uid in uids})
    return own.longest()


async def break_database(proxy: TcpProxy, how: str) -> None:
    if how == "refuses":
        await proxy.close()
    elif how == "hangs":
        proxy.is_stalled = True
    else:  # dies in a transaction, with rows in it, once before and once after its end
        proxy.cut_at, proxy.cut_after, proxy.cuts = b"COMMIT", how.endswith("after its end"), 3


async def repair_database(proxy: TcpProxy) -> None:
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
async def test_database_delays_no_task(namespace: TaskNamespace, database: ProxiedDatabase, how: str) -> None:
    """No task waits for the database: all end while it is broken."""
    async with namespace.operator(history=database.broken) as operator:
        await operator.wait_until_ready()
        usual = await run_tasks(namespace, "usual", 8)
        await break_database(database.proxy, how)
        delay = await run_tasks(namespace, "broken", 8)
        print(f"longest delay: {usual:.2f} s with a database that works, {delay:.2f} s with one that {how}")
        await repair_database(database.proxy)
        await namespace.wait_for_rows(database.history)
        assert not operator.find_defects()
        assert not operator.unexpected_exits


@pytest.mark.parametrize("how", ["refuses", pytest.param("hangs", marks=pytest.mark.full)])
async def test_database_away_while_tasks_end_and_the_operator_restarts(
    namespace: TaskNamespace, database: ProxiedDatabase, how: str, sizes: Any
) -> None:
    number = sizes.tasks_without_database
    images = {f"task-{n}": ENDINGS[n % len(ENDINGS)] for n in range(number)}
    async with namespace.operator(history=database.broken) as operator:
        await break_database(database.proxy, how)
        gone_since = time.monotonic()
        for name, image in images.items():
            await namespace.create(name, image, runPolicy__retries=0)
        await namespace.wait_for_finished_jobs(number // 2, timeout=180 + number)
        await operator.restart()
        await namespace.wait_for_finished_jobs(number, timeout=180 + number)
        await namespace.wait_for_finished_tasks()
        await namespace.assert_finished(images)
        await operator.restart()
        await operator.wait_until_ready()
        await asyncio.sleep(max(0.0, gone_since + sizes.database_away_seconds - time.monotonic()))
        await repair_database(database.proxy)
        returned = time.monotonic()
        await namespace.wait_for_rows(database.history)
        print(f"{len(read_rows(database.history))} rows exact {time.monotonic() - returned:.1f} s after the return")
        assert not operator.find_defects()
        assert not operator.unexpected_exits
