"""SIGTERM, as in every upgrade: it finishes what it has at hand, and ends well within its pod's grace period."""

import asyncio
import time

from support.control_plane import OPERATORS
from support.operators import leader_and_standby
from support.postgres import Postgres
from support.tasks_on_cluster import CRASHES, MISTAKEN, RUNS, SUCCEEDS, Scene, eventually, read_rows
from support.tcp_proxy import TcpProxy
from trainingtask_operator.client.leader_election import LEASE_SECONDS

GRACE_PERIOD = 30.0  # the chart's
IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": CRASHES, "four": SUCCEEDS}


async def test_leader_stopped_in_order(here: Scene, history: str) -> None:
    """The standby does not wait for its Lease to run out."""
    replicas = [here.operator(user, history=history, lease=True) for user in OPERATORS]
    async with leader_and_standby(*replicas) as (first, second):
        for name, image in IMAGES.items():
            await here.create(name, image, runPolicy__retries=0)
        await eventually("a Job", here.jobs, 30)
        assert await first.stop(GRACE_PERIOD) == 0
        stopped = time.monotonic()
        await second.ready("leader")
        assert time.monotonic() - stopped < LEASE_SECONDS - 5
        await here.jobs_ended(len(IMAGES), timeout=90)
        await here.tasks_ended()
        await here.check(IMAGES)
        await here.rows_match(history)
        assert not first.defects() + second.defects()


async def test_operator_stopped_while_the_database_hangs(here: Scene, history: str, postgres_server: Postgres) -> None:
    """The rows that it cannot write are the next one's: they are not waited for beyond the grace period."""
    async with TcpProxy(postgres_server.port) as proxy:
        through = history.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with here.operator(history=through) as operator:
            await here.create("before", RUNS)
            await here.state("before", "Running", timeout=60)
            await eventually("a row", lambda: row_is_there(history), 30)
            proxy.is_stalled = True
            for name, image in IMAGES.items():
                await here.create(name, image, runPolicy__retries=0)
            await here.end("before")
            await here.jobs_ended(len(IMAGES) + 1, timeout=60)
            await here.tasks_ended()
            assert await operator.stop(GRACE_PERIOD) == 0
            await proxy.close()
            proxy.is_stalled = False
            await proxy.open()
            await operator.start()
            await here.rows_match(history)
            assert not operator.defects()


async def row_is_there(history: str) -> bool:
    return bool(await asyncio.to_thread(read_rows, history))
