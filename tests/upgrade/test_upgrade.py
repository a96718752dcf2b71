"""The way from one release to the next: upgrade with live runs, rollback, reinstallation under another name; and a restored backup.

Needs the local cluster, of which it takes the release of the other tests away: `make test-full` runs it last. The
former release is the chart, and the images built, of the git tag in TRAININGTASK_FORMER_RELEASE.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import specs
from support.kubectl import Kubectl, Refused, eventually, forward_port, run
from support.release import NAMESPACE, POSTGRES, RELEASE, SYSTEM
from support.tiny_models import write_tiny_models

pytestmark = [pytest.mark.full, pytest.mark.cluster, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
FORMER = os.environ.get("TRAININGTASK_FORMER_RELEASE", "v0.1.0")
VALUES = {"operator": "image", "web": "web.image", "trainer": "trainer.image", "postgres": "history.evaluation.image"}
LIVE: dict[str, Any] = {
    "dataset": {"name": "support_tickets", "sampleSize": 200},
    "model": {"name": "bert", "volumeClaim": "tiny-models", "checkpoint": "bert"},
    "training": {"epochs": 1000, "batchSize": 8},
    "resources": {"cpu": "500m", "memory": "1536Mi"},
}
TASKS, HOME = Kubectl(NAMESPACE), Kubectl(SYSTEM)


class Release:
    """A chart with its images."""

    def __init__(self, root: Path) -> None:
        self.chart = root / "charts" / "trainingtask-operator"
        build = [sys.executable, str(root / "hack" / "cluster" / "cluster.py"), "images", "--json"]
        self.images: dict[str, str] = json.loads(run(*build, timeout=1800))

    def install(self, name: str = RELEASE, *options: str, web: "Release | None" = None) -> None:
        """Install or upgrade to this release, with the web image of another one if given."""
        images = self.images | ({"web": web.images["web"]} if web else {})
        settings = []
        for image, value in VALUES.items():
            repository, _, tag = images[image].rpartition(":")
            settings += ["--set-string", f"{value}.repository={repository},{value}.tag={tag}"]
        run(
            *("helm", "upgrade", "--install", name, str(self.chart), f"--namespace={SYSTEM}"),
            *(f"--set=trainer.namespaces={{{NAMESPACE}}}", "--set=web.enabled=true"),
            *("--set-string=trainer.devices.cpu.resources.storage=", "--wait", "--timeout=10m", *settings, *options),
            timeout=660,
        )


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, Release]]:
    """Build both releases' images, and end the other tests' release; yield the former and the present one."""
    if "TRAININGTASK_IMAGE_TRAINER" not in os.environ:
        pytest.skip("needs the local cluster (make test-full)")
    git = ("git", "-C", str(ROOT))
    if subprocess.run([*git, "rev-parse", "--verify", "--quiet", f"{FORMER}^{{commit}}"], check=False).returncode != 0:
        pytest.skip(f"the clone has no tag {FORMER}: git fetch --tags, or set TRAININGTASK_FORMER_RELEASE")
    folder = tmp_path_factory.mktemp("former") / "release"
    run(*git, "worktree", "add", "--detach", str(folder), FORMER)
    try:
        former, present = Release(folder), Release(ROOT)
        run("helm", "uninstall", RELEASE, f"--namespace={SYSTEM}", "--ignore-not-found", "--wait")
        for namespace in (SYSTEM, NAMESPACE):
            run("kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait")
            TASKS.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        yield former, present
    finally:
        run(*git, "worktree", "remove", "--force", str(folder))


@pytest.fixture
def tiny_models(releases: tuple[Release, Release], tmp_path: Path) -> None:
    write_tiny_models(tmp_path)
    for part in (*tmp_path.parents[:2], tmp_path, *tmp_path.rglob("*")):
        part.chmod(0o755 if part.is_dir() else 0o644)
    command = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py"), "claim", NAMESPACE]
    subprocess.run([*command, "tiny-models", str(tmp_path)], check=True, capture_output=True)


def train(name: str) -> None:
    """Train a small task to its end."""
    TASKS.apply(specs.task(name, specs.CLASSICAL | {"resources": {"cpu": "500m", "memory": "1Gi"}}, NAMESPACE))
    TASKS.wait(name, "Complete")


def read_rows() -> dict[str, list[Any]]:
    """Return the stable columns of all rows, by task and attempt."""
    query = "select json_object_agg(name || '/' || attempt, json_build_array(status, task_uid)) from training_run"
    text = HOME("exec", POSTGRES, "--", "psql", "-U", "postgres", "-d", "trainingtask", "-Atc", query)
    found: dict[str, list[Any]] = json.loads(text)
    return found


def assert_kept(rows: dict[str, list[Any]]) -> None:
    """Assert that each of these rows is still there and unchanged."""
    found = read_rows()
    assert {key: found.get(key) for key in rows} == rows


def assert_uninterrupted(pod: dict[str, Any]) -> None:
    """Assert that the live run goes on in this pod, and that its progress arrives."""
    step = TASKS.status("live")["training"]["step"]
    TASKS.wait_for_step("live", step + 1)
    [found] = TASKS.pods("live")
    assert found["metadata"]["uid"] == pod["metadata"]["uid"]
    assert found["status"]["containerStatuses"][0]["restartCount"] == 0
    status = TASKS.status("live")
    assert (status["state"], status["attempt"]) == ("Running", 1)


def list_runs_on_the_web() -> set[str]:
    """Return the names of the runs that the web app shows to an admin."""
    token = TASKS("create", "token", "reader").strip()
    with forward_port(SYSTEM, f"service/{RELEASE}-web", 80) as port:
        url = f"http://127.0.0.1:{port}/api/v1/runs"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=120)
    assert answer.status_code == 200, answer.text
    return {run["name"] for run in answer.json()["items"]}


def create_reader() -> None:
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    TASKS.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": role,
            "subjects": [subject],
        },
    )


def test_no_run_is_interrupted_and_no_row_lost(releases: tuple[Release, Release], tiny_models: None) -> None:
    former, present = releases
    former.install()
    create_reader()
    train("before")
    TASKS.apply(specs.task("live", LIVE, NAMESPACE))
    suspended = specs.changed(specs.CLASSICAL, runPolicy={"suspend": True}, resources={"cpu": "500m", "memory": "1Gi"})
    TASKS.apply(specs.task("suspended", suspended, NAMESPACE))
    TASKS.wait_for_training("live")
    TASKS.wait("suspended", "Suspended")
    [pod] = TASKS.pods("live")
    rows = eventually("a row of each that ran", lambda: (found := read_rows()) and {"before/1", "live/1"} <= found.keys() and found)  # fmt: skip

    present.install(web=former)
    assert_uninterrupted(pod)
    assert_kept(rows)
    assert {"before", "live"} <= list_runs_on_the_web(), "the former web on the present schema"
    train("upgraded")
    TASKS("patch", "trainingtask", "suspended", "--type=merge", '--patch={"spec":{"runPolicy":{"suspend":false}}}')
    TASKS.wait("suspended", "Complete")
    present.install()
    assert {"before", "live", "upgraded"} <= list_runs_on_the_web()

    run("helm", "rollback", RELEASE, "1", f"--namespace={SYSTEM}", "--wait", "--timeout=10m", timeout=660)
    assert_uninterrupted(pod)
    train("rolled-back")
    rows = read_rows()
    present.install()
    assert_uninterrupted(pod)
    assert_kept(rows)

    run("helm", "uninstall", RELEASE, f"--namespace={SYSTEM}", "--wait")
    uids = {task["metadata"]["name"]: task["metadata"]["uid"] for task in TASKS.find("trainingtasks")}
    assert {"before", "live", "suspended", "upgraded", "rolled-back"} == uids.keys()
    with pytest.raises(Refused, match="invalid ownership metadata"):
        present.install("renamed", f"--set=fullnameOverride={RELEASE}")
    present.install("renamed", f"--set=fullnameOverride={RELEASE}", "--take-ownership")
    try:
        assert {task["metadata"]["name"]: task["metadata"]["uid"] for task in TASKS.find("trainingtasks")} == uids
        assert_kept(rows)
        assert_uninterrupted(pod)
        train("reinstalled")
        TASKS("delete", "trainingtask", "live")
        eventually("the live run ends as cancelled", lambda: read_rows()["live/1"][0] == "Cancelled")
    finally:
        run("helm", "uninstall", "renamed", f"--namespace={SYSTEM}", "--wait")


def test_a_restored_backup_has_the_lost_rows(releases: tuple[Release, Release], tmp_path: Path) -> None:
    """Run the commands of docs/operations.md."""
    _, present = releases
    present.install(RELEASE, "--take-ownership")  # of what the test before left
    train("backed-up")
    rows = eventually("its row", lambda: (found := read_rows()) and "backed-up/1" in found and found)
    dump = tmp_path / "history.dump"
    database = ("kubectl", "exec", "--stdin", f"--namespace={SYSTEM}", POSTGRES, "--")
    with dump.open("wb") as file:
        command = [*database, "pg_dump", "-U", "postgres", "-d", "trainingtask", "--format=custom"]
        subprocess.run(command, stdout=file, check=True)
    TASKS("delete", "trainingtask", "--all")
    run(*database, "psql", "-U", "postgres", "-d", "trainingtask", "-c", "delete from training_run")
    operator = f"deployment/{RELEASE}"
    HOME("scale", operator, "--replicas=0")
    HOME("wait", "pods", "--selector=app.kubernetes.io/component=operator", "--for=delete", "--timeout=60s")
    with dump.open("rb") as file:
        options = ["--clean", "--if-exists", "--single-transaction"]
        subprocess.run(
            [*database, "pg_restore", "-U", "postgres", "-d", "trainingtask", *options], stdin=file, check=True
        )
    HOME("scale", operator, "--replicas=1")
    HOME("rollout", "status", operator, "--timeout=120s")
    assert_kept(rows)
    train("after-the-restore")
    eventually("its row", lambda: "after-the-restore/1" in read_rows())
