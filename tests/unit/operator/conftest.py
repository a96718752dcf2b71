from datetime import timedelta

import pytest

from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder
from trainingtask_operator.controller.reconciler import REQUEUE_AFTER_JOB_CREATED, Reconciler
from trainingtask_operator.settings import Settings


class RepeatingReconciler(Reconciler):
    """Reconcile again at once after a Job was created, as the queue does without other keys."""

    async def reconcile(self, namespace: str, name: str) -> timedelta | None:
        while (requeue_after := await super().reconcile(namespace, name)) == REQUEUE_AFTER_JOB_CREATED:
            pass
        return requeue_after


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(
        {
            "namespaces": ["default"],
            "devices": {
                "cpu": {"image": "trainer:cpu", "resources": {"cpu": "1", "memory": "2Gi"}},
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
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def reconciler(cluster: FakeCluster, settings: Settings, recorder: FakeRecorder) -> Reconciler:
    return RepeatingReconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
