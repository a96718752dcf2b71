"""SIGTERM, as in every upgrade: the operator finishes running reconciles and exits within its grace period."""

import asyncio

from support.control_plane import OPERATORS
from support.operators import leader_and_standby
from support.postgres import Postgres
from support.task_namespace import CRASHES, MISTAKEN, RUNS, SUCCEEDS, TaskNamespace, eventually, read_rows
from support.tcp_proxy import TcpProxy

LEASES = "/apis/coordination.k8s.io/v1"
GRACE_PERIOD = 120.0  # the chart's is 30 s; a busy machine takes longer
IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": CRASHES, "four": SUCCEEDS}


async def test_leader_stopped_in_order(namespace: TaskNamespace, history: str) -> None:
    """The standby does not wait until the Lease expires."""
    replicas = [namespace.operator(user, history=history, lease=True) for user in OPERATORS]
    async with leader_and_standby(*replicas) as (first, second):
        for name, image in IMAGES.items():
            await namespace.create(name, image, runPolicy__retries=0)
        await eventually("a Job", namespace.list_jobs)
        assert await first.stop(GRACE_PERIOD) == 0
        lease = await namespace.api.request("GET", f"{LEASES}/namespaces/{namespace.name}/leases/the-lease")
        assert lease["spec"]["holderIdentity"] in ("", OPERATORS[1]), "released"
        await second.wait_until_ready("leader")
        await namespace.wait_for_finished_jobs(len(IMAGES))
        await namespace.wait_for_finished_tasks()
        await namespace.assert_finished(IMAGES)
        await namespace.wait_for_rows(history)
        assert not first.find_defects() + second.find_defects()


async def test_operator_stopped_while_the_database_hangs(
    namespace: TaskNamespace, history: str, postgres_server: Postgres
) -> None:
    """The next process writes the rows: the exit does not wait for them beyond the grace period."""
    async with TcpProxy(postgres_server.port) as proxy:
        through = history.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with namespace.operator(history=through) as operator:
            await namespace.create("before", RUNS)
            await namespace.wait_for_state("before", "Running")
            await eventually("a row", lambda: has_row(history))
            proxy.is_stalled = True
            for name, image in IMAGES.items():
                await namespace.create(name, image, runPolicy__retries=0)
            await namespace.finish_trainer("before")
            await namespace.wait_for_finished_jobs(len(IMAGES) + 1)
            await namespace.wait_for_finished_tasks()
            assert await operator.stop(GRACE_PERIOD) == 0
            await proxy.close()
            proxy.is_stalled = False
            await proxy.open()
            await operator.start()
            await namespace.wait_for_rows(history)
            assert not operator.find_defects()


async def has_row(history: str) -> bool:
    return bool(await asyncio.to_thread(read_rows, history))
