"""One operator, installed by its chart, and one namespace for all cluster tests.

Runs on the cluster of the current kubeconfig. `make test-cluster` starts a local one and names its images in
TRAININGTASK_IMAGE_OPERATOR, _WEB, _TRAINER and _POSTGRES; without them the chart's own are installed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.fake_nodes import PROFILES
from support.kubectl import Kubectl, Refused, eventually, forward_port, run
from support.plugin import Cli, create_cli
from support.reason_tasks import apply_task, broken, empty_hub, nodes
from support.release import NAMESPACE, POSTGRES, RELEASE, STORE_SETTINGS, SYSTEM, get_image_options
from support.s3_server import REGION
from support.task_bucket import store
from support.trainer_tokens import ReportAs, reporter

__all__ = ["apply_task", "broken", "empty_hub", "nodes", "store"]

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem == "test_rights")  # it reads the audit log of all others
    for item in items:
        if "tests/cluster" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def session_begin() -> datetime:
    """Return the time at which the first of these tests began."""
    return datetime.now(UTC)


def build_namespace(namespace: str) -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}


@pytest.fixture(scope="session")
def release() -> datetime:
    """Install or upgrade the chart with the test namespace among the prepared ones; return the time."""
    kubectl = Kubectl("default")
    run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    for namespace in (SYSTEM, NAMESPACE):
        kubectl.apply(build_namespace(namespace))
    namespaces = ",".join(sorted(get_prepared_namespaces() | {NAMESPACE}))
    chart = str(ROOT / "charts" / "trainingtask-operator")
    run(
        "helm", "upgrade", "--install", RELEASE, chart, f"--namespace={SYSTEM}", f"--set=trainer.namespaces={{{namespaces}}}",
        # The local cluster's kubelet does not measure its disk; the fake nodes with GPUs have one.
        "--set-string=trainer.devices.cpu.resources.storage=",
        # For the tests of stores, which create the ConfigMap; a namespace may be without it.
        f"--set-json=trainer.envFrom={json.dumps([{'configMapRef': {'name': STORE_SETTINGS}}])}",
        f"--set-json=trainer.env={json.dumps([{'name': 'AWS_REGION', 'value': REGION}])}",
        "--set=kueue.enabled=true", "--set=web.enabled=true", f"--set-json=trainer.profiles={json.dumps(PROFILES)}",
        *get_image_options(), "--wait", "--timeout=10m", timeout=660,
    )  # fmt: skip
    run("kubectl", "wait", "--for=condition=Established", "crd/trainingtasks.trainingtask.dev", "--timeout=280s")
    return datetime.now(UTC)


def get_prepared_namespaces() -> set[str]:
    """Return the prepared namespaces of an existing release, such as the demo's, so that it keeps them."""
    try:
        values = json.loads(run("helm", "get", "values", RELEASE, f"--namespace={SYSTEM}", "--output=json")) or {}
    except Refused:
        return set()
    return set(values.get("trainer", {}).get("namespaces", []))


@pytest.fixture(scope="session")
def system(release: datetime) -> Kubectl:
    return Kubectl(SYSTEM)


@pytest.fixture(scope="session")
def kubectl(release: datetime) -> Kubectl:
    return Kubectl(NAMESPACE)


@pytest.fixture(scope="session")
def cli(kubectl: Kubectl) -> Cli:
    """Return a function that runs a command of the plugin in the tests' namespace."""
    return create_cli(kubectl.namespace)


@pytest.fixture(scope="module")
def web(release: datetime) -> Iterator[str]:
    """Yield the address of the installed web app, through `kubectl port-forward`."""
    run("kubectl", "rollout", "status", f"deployment/{RELEASE}-web", f"--namespace={SYSTEM}", "--timeout=5m")
    with forward_port(SYSTEM, f"service/{RELEASE}-web", 80) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def empty_claim(kubectl: Kubectl) -> str:
    """Create an empty claim; return its name."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a-claim"}, "spec": spec})
    return "a-claim"


@pytest.fixture(scope="session")
def mount_folder(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], str]:
    """Return a function that offers a folder of this machine as a read-only claim; on the local cluster only."""
    temporary = tmp_path_factory.getbasetemp()
    if "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        pytest.skip(
            "needs the local cluster (make test-cluster): folders of this machine cannot be mounted into another one"
        )

    def mount(name: str, folder: Path) -> str:
        if temporary in folder.parents:  # pytest's folders are private, and trainers run as another user
            for part in (temporary.parent, temporary, *folder.relative_to(temporary).parents):
                (temporary / part).chmod(0o755)
            for item in (folder, *folder.rglob("*")):
                item.chmod(0o755 if item.is_dir() else 0o644)
        command = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py"), "claim", NAMESPACE, name, str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        return name

    return mount


@pytest.fixture
def task(kubectl: Kubectl) -> Iterator[Callable[..., str]]:
    """Yield a function that applies a task by name and spec; delete the tasks after the test."""
    names: list[str] = []

    def apply(name: str, spec: dict[str, Any]) -> str:
        # Half a core: several tasks must fit on two cores.
        spec = {**spec, "resources": {"cpu": "500m", **spec.get("resources", {})}}
        kubectl.apply(
            {
                "apiVersion": "trainingtask.dev/v1alpha1",
                "kind": "TrainingTask",
                "metadata": {"name": name},
                "spec": spec,
            }
        )
        names.append(name)
        return name

    yield apply
    if names:
        kubectl("delete", "trainingtask", *names, "--ignore-not-found", "--wait=false")


@pytest.fixture
def report_as(kubectl: Kubectl, tmp_path: Path) -> ReportAs:
    """Return a function that patches a task's status as a trainer would."""
    return reporter(kubectl.namespace, tmp_path)


@pytest.fixture(scope="session")
def rows(system: Kubectl) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that reads a task's history rows from Postgres, by the task's uid."""

    def read(uid: str) -> list[dict[str, Any]]:
        query = f"select coalesce(json_agg(r order by attempt), '[]') from training_run r where task_uid = '{uid}'"
        text = system("exec", POSTGRES, "--", "psql", "-U", "postgres", "-d", "trainingtask", "-Atc", query)
        found: list[dict[str, Any]] = json.loads(text)
        return found

    return read


@pytest.fixture
def final_row(kubectl: Kubectl, rows: Callable[[str], list[dict[str, Any]]]) -> Callable[[str], dict[str, Any]]:
    """Return a function that waits for the last row of a task to be final."""

    def read(task: str) -> dict[str, Any]:
        uid = kubectl.get("trainingtask", task)["metadata"]["uid"]

        def last() -> dict[str, Any] | None:
            found = rows(uid)
            return found[-1] if found and found[-1]["finish_time"] else None

        return eventually(f"a final history row of {task}", last)

    return read
