"""The workers: each takes keys from the queue and reconciles their tasks."""

import asyncio
import logging
import time
from collections.abc import Callable

from trainingtask_operator import metrics
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import Key
from trainingtask_operator.logs import log_context

WORKERS = 32

log = logging.getLogger(__name__)


async def run_worker(queue: WorkQueue[Key], reconciler: Reconciler, on_done: Callable[[Key], None]) -> None:
    """Reconcile tasks until the queue is stopped; call `on_done` with each key after its reconcile."""
    while (key := await queue.get()) is not None:
        begin = time.monotonic()
        with log_context(namespace=key[0], task=key[1]):
            await _reconcile(queue, reconciler, key)
        metrics.RECONCILE_SECONDS.observe(time.monotonic() - begin)
        on_done(key)
        await asyncio.sleep(0)  # a reconcile without a request would never let the watches run


async def _reconcile(queue: WorkQueue[Key], reconciler: Reconciler, key: Key) -> None:
    try:
        requeue_after = await reconciler.reconcile(*key)
    except ClusterError as error:
        metrics.RECONCILE_ERRORS.labels("api").inc()
        delay = queue.add_rate_limited(key)
        log.warning("%s/%s: %s; next try in %.1f s", *key, error, delay)
    except Exception:
        # A defect must not stop the other tasks: log it in full, retry this one.
        metrics.RECONCILE_ERRORS.labels("defect").inc()
        log.exception("%s/%s: the reconcile failed", *key)
        queue.add_rate_limited(key)
    else:
        queue.forget(key)
        if requeue_after is not None:
            queue.add_after(key, requeue_after.total_seconds(), priority=Priority.LOW)
