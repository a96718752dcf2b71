from datetime import timedelta

import pytest

from support.in_memory_api_server import NOW, FakeCluster, Rows
from trainingtask_operator.controller.reconciler import AFTER_OTHERS, Reconciler
from trainingtask_operator.settings import Settings


class InTurn(Reconciler):
    """As the queue does it, with no others before it."""

    async def reconcile(self, namespace: str, name: str) -> timedelta | None:
        while (again := await super().reconcile(namespace, name)) == AFTER_OTHERS:
            pass
        return again


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(
        {
            "namespaces": ["default"],
            "devices": {
                "cpu": {"image": "trainer:cpu"},
                "gpu": {
                    "image": "trainer:gpu",
                    "nodeSelector": {"pool": "gpu"},
                    "affinity": {"nodeAffinity": {}},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "runtimeClassName": "nvidia",
                    "resources": {"cpu": 8, "memory": "32Gi"},
                },
            },
        }
    )


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def reconciler(cluster: FakeCluster, settings: Settings, rows: Rows) -> Reconciler:
    return InTurn(cluster, cluster, settings, rows, clock=lambda: NOW)
