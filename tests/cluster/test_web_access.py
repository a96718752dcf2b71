"""The web app with a real API server: which runs a token shows, and which users may create tasks."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.kubectl import Kubectl, Manifest, eventually, run
from support.ports import free_port
from support.run_rows import a_run
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record_many
from trainingtask_history.tables import MetricPoint, RunEvent, run_id

API = "/api/v1/runs"
TASK = {"DATASET_NAME": "support_tickets", "MODEL_NAME": "logistic_regression", "N_SAMPLE": 100, "EPOCH": 3}


@dataclass(frozen=True)
class Team:
    """A namespace with a user's token and a run."""

    kubectl: Kubectl
    uid: str
    token: str
    run: uuid.UUID


def create_team(name: str, verbs: list[str]) -> Team:
    """Create a namespace whose user may do `verbs` with its tasks."""
    kubectl = Kubectl(name)
    run("kubectl", "create", "namespace", name)
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "user"}}
    rules = [{"apiGroups": ["trainingtask.dev"], "resources": ["trainingtasks"], "verbs": verbs}]
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "user"}}, role | {"rules": rules})
    kubectl("create", "rolebinding", "user", "--role=user", f"--serviceaccount={name}:user")
    uid = kubectl.get("namespace", name)["metadata"]["uid"]
    return Team(kubectl, uid, kubectl("create", "token", "user").strip(), run_id(f"task-of-{name}", 1))


@pytest.fixture(scope="module")
def teams(release: object) -> Iterator[tuple[Team, Team]]:
    """Yield a team whose user may create tasks, and one whose user may not."""
    suffix = uuid.uuid4().hex[:6]
    names = [f"web-{letter}-{suffix}" for letter in "ab"]
    try:
        yield create_team(names[0], ["list", "create"]), create_team(names[1], ["list"])
    finally:
        run("kubectl", "delete", "namespace", *names, "--ignore-not-found", "--wait=false")


def row(team: Team) -> Any:
    name = team.kubectl.namespace
    return a_run(1, id=team.run, task_uid=f"task-of-{name}", name=name, namespace=name, namespace_uid=team.uid)


@pytest.fixture(scope="module")
def web(teams: tuple[Team, Team], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the app as a process over a history with a run of each team; yield its address."""
    url = f"sqlite:///{tmp_path_factory.mktemp('web')}/history.db"
    engine = open_history(url)
    migrate(engine)
    runs = [row(team) for team in teams]
    points = [MetricPoint(run_id=one.id, name="training_loss", step=1, value=1.0) for one in runs]
    events = [RunEvent(run_id=one.id, time=one.create_time, type="Accepted", reason="Accepted") for one in runs]
    record_many(engine, runs, points=points, events=events)
    engine.dispose()
    port = free_port()
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": kubeconfig,
        "TRAININGTASK_HISTORY_URL": url,
        "TRAININGTASK_WEB_PORT": str(port),
        "TRAININGTASK_WEB_NAMESPACE": teams[0].kubectl.namespace,
    }
    process = subprocess.Popen([sys.executable, "-m", "trainingtask_web"], env=environment)
    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, "the web app ended"
        try:
            return httpx.get(f"{address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually("the web app answers", is_ready)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(web: str) -> Ask:
    def ask(method: str, path: str, token: str, **more: Any) -> httpx.Response:
        return httpx.request(method, web + path, headers={"Authorization": f"Bearer {token}"}, timeout=120, **more)

    return ask


def test_a_token_sees_nothing_of_another_team(teams: tuple[Team, Team], ask: Ask) -> None:
    for mine, theirs in (teams, teams[::-1]):
        token, name = mine.token, mine.kubectl.namespace
        own = str(mine.run)
        for path in (API, f"{API}/export?format=json"):
            assert [one["id"] for one in ask("GET", path, token).json()["items"]] == [own], path
        assert [one["id"] for one in ask("GET", "/", token).json()] == [own]
        assert len(ask("GET", f"{API}/export", token).text.splitlines()) == 2
        assert ask("GET", f"{API}?namespace={theirs.kubectl.namespace}", token).json()["items"] == []
        for path in ("/{}", API + "/{}", API + "/{}/metrics", API + "/{}/events", API + "/compare?ids={}", "/runs/{}"):
            assert ask("GET", path.format(own), token).status_code == 200, path
            assert ask("GET", path.format(theirs.run), token).status_code == 404, path
        page = ask("GET", "/runs", token).text
        assert name in page
        assert theirs.kubectl.namespace not in page


def test_a_user_who_may_list_everywhere_sees_all(teams: tuple[Team, Team], ask: Ask, web: str) -> None:
    name = f"web-all-{uuid.uuid4().hex[:6]}"
    namespace = teams[0].kubectl.namespace
    teams[0].kubectl("create", "serviceaccount", "admin")
    token = teams[0].kubectl("create", "token", "admin").strip()
    assert ask("GET", API, token).json()["items"] == []
    subject = f"--serviceaccount={namespace}:admin"
    try:
        run("kubectl", "create", "clusterrole", name, "--verb=list", "--resource=trainingtasks.trainingtask.dev")
        run("kubectl", "create", "clusterrolebinding", name, f"--clusterrole={name}", subject)
        another = teams[0].kubectl("create", "token", "admin").strip()  # the web app caches the rights of a token
        seen = eventually("all runs", lambda: ask("GET", API, another).json()["items"])
        assert {one["id"] for one in seen} == {str(team.run) for team in teams}
    finally:
        run("kubectl", "delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found")


def test_an_invalid_token_is_refused_everywhere(teams: tuple[Team, Team], ask: Ask) -> None:
    for path in (API, "/", f"/{teams[0].run}"):
        for token in ("x", teams[0].token[:-4] + "AAAA"):
            assert ask("GET", path, token).status_code == 401


def test_a_legacy_request_creates_a_task_if_its_user_may(teams: tuple[Team, Team], ask: Ask) -> None:
    mine, theirs = teams
    answer = ask("POST", "/", mine.token, json=TASK)
    assert answer.status_code == 201, answer.text
    record = answer.json()
    task: Manifest = mine.kubectl.get("trainingtask", record["name"])
    assert record["id"] == str(run_id(task["metadata"]["uid"], 1))
    assert (task["spec"]["dataset"]["name"], task["spec"]["dataset"]["sampleSize"]) == ("support_tickets", 100)
    assert record["ignored"] == ["EPOCH"]

    for token, namespace in ((theirs.token, theirs.kubectl.namespace), (mine.token, theirs.kubectl.namespace)):
        refused = ask("POST", "/", token, params={"namespace": namespace}, json=TASK)
        assert refused.status_code == 403
        assert "cannot create resource" in refused.json()["detail"]
    assert theirs.kubectl.find("trainingtasks") == []


def test_a_refusal_of_the_api_server_is_passed_on(teams: tuple[Team, Team], ask: Ask) -> None:
    """The API server refuses the task by a quota."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    mine = teams[0]
    mine.kubectl.apply(quota | {"spec": {"hard": {"count/trainingtasks.trainingtask.dev": "0"}}})

    def refused() -> httpx.Response | None:
        answer = ask("POST", "/", mine.token, json=TASK)
        return answer if answer.status_code == 403 else None

    answer = eventually("the quota counts", refused)
    assert "exceeded quota" in answer.json()["detail"]
