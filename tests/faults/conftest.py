"""Faults of the control plane: one control plane per session, and the operator as a local process.

Small sizes unless TRAININGTASK_TESTS is `full` (`make test-full`).
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from support.control_plane import ControlPlane, missing_programs, running_control_plane
from support.kube_api import PODS, Api
from support.postgres import Postgres, postgres_server
from support.simulated_trainers import write_stages
from support.task_namespace import TaskNamespace, build_node, create_namespace

__all__ = ["postgres_server"]


@dataclass(frozen=True)
class Sizes:
    """How much of each fault."""

    tasks_killed_over: int
    kills: int
    unreachable_seconds: float
    tasks_without_database: int
    database_away_seconds: float


SMALL = Sizes(6, 4, 3.0, 20, 0.0)
FULL = Sizes(50, 100, 60.0, 200, 600.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/faults" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1800))


def is_full() -> bool:
    return os.environ.get("TRAININGTASK_TESTS") == "full"


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return FULL if is_full() else SMALL


@pytest.fixture
def rng() -> random.Random:
    """Return a generator of random moments; the seed is printed with a failure, and TRAININGTASK_FAULTS_SEED repeats it."""
    seed = int(os.environ.get("TRAININGTASK_FAULTS_SEED") or random.randrange(10**6))
    print(f"TRAININGTASK_FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    missing = missing_programs()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make cluster builds them; see hack/cluster/README.md)")
    folder = tmp_path_factory.mktemp("control-plane")
    with running_control_plane(folder, write_stages(folder / "stages.yaml")) as running:
        asyncio.run(create_crd_and_nodes(running))
        yield running


@pytest.fixture
async def namespace(
    plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[TaskNamespace]:
    """Return a namespace named after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:60].strip("-")
    async with create_namespace(plane, name, tmp_path) as created:
        yield created


async def create_crd_and_nodes(plane: ControlPlane) -> None:
    """Create the CRD and two nodes."""
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    manifest = yaml.safe_load((Path(__file__).parents[2] / "crds" / "trainingtasks.yaml").read_text())
    async with Api(str(plane.kubeconfig())) as api:
        await api.request("POST", crds, manifest)
        for name in ("one", "two"):
            await api.request("POST", f"{PODS}/nodes", build_node(name))
        async with asyncio.timeout(300):
            while True:
                crd = await api.request("GET", f"{crds}/{manifest['metadata']['name']}")
                nodes = (await api.request("GET", f"{PODS}/nodes"))["items"]
                served = any(
                    c["type"] == "Established" and c["status"] == "True" for c in crd["status"]["conditions"] or []
                )
                if served and not any(n["spec"].get("taints") for n in nodes):
                    return
                await asyncio.sleep(0.2)


@pytest.fixture
def history(postgres_server: Postgres) -> str:
    """Return the URL of an empty database."""
    database = postgres_server.create_database()
    return postgres_server.url(database, database, database)
