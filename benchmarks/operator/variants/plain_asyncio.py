"""The same work with no framework: what Python itself costs. It watches Jobs, not pods."""

import asyncio
import os

import uvloop

from support.kube_api import JOBS, TASKS
from variants.work import LABEL, Work


async def main() -> None:
    async with Work() as work:
        namespace = os.environ["BENCH_NAMESPACE"]
        started: set[asyncio.Task[None]] = set()

        def start(coroutine: object) -> None:
            running = asyncio.ensure_future(coroutine)
            started.add(running)
            running.add_done_callback(started.discard)

        async def tasks() -> None:
            async for kind, task in work.api.watch(f"{TASKS}/namespaces/{namespace}/trainingtasks"):
                if kind == "ADDED":
                    start(work.create_job(task))

        async def jobs() -> None:
            async for kind, job in work.api.watch(f"{JOBS}/namespaces/{namespace}/jobs", labelSelector=LABEL):
                if kind != "DELETED":
                    start(work.on_job_event(job, report_running=True))

        await asyncio.gather(tasks(), jobs())


if __name__ == "__main__":
    uvloop.run(main())
