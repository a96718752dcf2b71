"""The same work on kopf with nothing around it: event handlers, uvloop, POST without GET, a watch on pods."""

import logging
import os
from typing import Any

import kopf
import uvloop

from variants.work import LABEL, Work

work: Work


@kopf.on.startup(id="start")
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    global work  # noqa: PLW0603 - kopf imports this module; there is one of it
    work = await Work().__aenter__()
    settings.posting.enabled = False
    settings.peering.standalone = True
    for kind in ("jobs", "pods"):
        settings.watching.label_selectors[kind] = LABEL


@kopf.on.event("trainingtask.dev", "v1alpha1", "trainingtasks", id="task")
async def task(type: str | None, body: kopf.Body, **_: Any) -> None:
    if type in (None, "ADDED"):
        await work.create_job(body)


@kopf.on.event("v1", "pods", id="pod")
async def pod(body: kopf.Body, **_: Any) -> None:
    await work.on_pod_event(body)


@kopf.on.event("batch", "v1", "jobs", id="job")
async def job(body: kopf.Body, **_: Any) -> None:
    await work.on_job_event(body)


if __name__ == "__main__":
    logging.getLogger("kopf").setLevel(logging.WARNING)
    uvloop.install()
    kopf.run(standalone=True, namespaces=[os.environ["BENCH_NAMESPACE"]])
