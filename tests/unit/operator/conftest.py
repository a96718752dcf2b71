import pytest

from fake_cluster import NOW, FakeCluster, Rows
from trainingtask_operator.reconciler import Reconciler
from trainingtask_operator.settings import Settings


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
    return Reconciler(cluster, cluster, settings, rows, clock=lambda: NOW)
