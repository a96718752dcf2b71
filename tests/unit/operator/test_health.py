"""The responses of the probes and of the metrics, over HTTP."""

import time

import aiohttp
import pytest

from support.ports import free_port
from trainingtask_api import names
from trainingtask_operator import health, metrics
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import Settings


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_the_probes_show_starting_working_and_stuck(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(settings)
    port = free_port()
    monkeypatch.setenv(names.ENV_HEALTH_PORT, str(port))
    monkeypatch.setenv(names.ENV_METRICS_PORT, str(free_port()))
    async with health.serve(manager):
        assert (await get(port, "/healthz"))[0] == 200
        assert await get(port, "/readyz") == (503, "the Jobs and pods are not listed yet\n")
        manager.cache.has_synced = True
        assert await get(port, "/readyz") == (200, "leader\n")

        manager.resync.missing = {"uid"}
        assert await get(port, "/healthz") == (503, "no watch shows 1 objects that two live lists did\n")
        manager.resync.missing = set()

        manager.queue.add(("n", "t"))
        await manager.queue.get()
        monkeypatch.setattr(health, "STUCK_SECONDS", -1.0)
        assert (await get(port, "/healthz"))[0] == 503
        manager.queue.done(("n", "t"))
        monkeypatch.setattr(health, "STUCK_SECONDS", 180.0)

        manager.resync.last_run = time.monotonic() - 10_000
        status, message = await get(port, "/healthz")
        assert (status, "live list" in message) == (503, True)


async def test_the_metrics_count_tasks_by_state_and_requests_by_resource(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(settings)
    port = free_port()
    monkeypatch.setenv(names.ENV_HEALTH_PORT, str(free_port()))
    monkeypatch.setenv(names.ENV_METRICS_PORT, str(port))
    body = {
        "apiVersion": "v",
        "kind": "TrainingTask",
        "spec": {},
        "metadata": {"namespace": "n", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
    }
    for uid, state in (("1", "Running"), ("2", "Running"), ("3", "Failed")):
        metadata = {**body["metadata"], "name": uid, "uid": uid}  # type: ignore[dict-item]
        manager.event_handlers.on_task_event("ADDED", {**body, "metadata": metadata, "status": {"state": state}})
    metrics.count_request("PATCH", "/apis/trainingtask.dev/v1alpha1/namespaces/a/trainingtasks/b/status", 200)
    metrics.count_request("GET", "/api/v1/namespaces/a/pods/b/log", 404)
    async with health.serve(manager):
        status, text = await get(port, "/metrics")
    assert status == 200
    assert 'trainingtask_tasks{state="Running"} 2.0' in text
    assert 'trainingtask_tasks{state="Failed"} 1.0' in text
    assert 'trainingtask_api_requests_total{code="200",resource="trainingtasks/status",verb="PATCH"}' in text
    assert 'trainingtask_api_requests_total{code="404",resource="pods/log",verb="GET"}' in text
