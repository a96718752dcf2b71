"""The HTTP API: responses, scopes and errors."""

import csv
import io
import uuid
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.run_rows import NOON, a_run, of_team_b
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, run_id
from trainingtask_web.routes import export

Client = Callable[..., TestClient]
API = "/api/v1/runs"
OF_B = run_id("uid-6", 1)
OF_A = run_id("uid-1", 1)


def names(answer: object) -> list[str]:
    return [run["name"] for run in answer.json()["items"]]  # type: ignore[attr-defined]


def test_a_cursor_continues_the_list(client: Client, history: Engine) -> None:
    ann = client(history, "token-of-ann")
    first = ann.get(API, params={"limit": 3})
    assert (first.status_code, names(first)) == (200, ["task-4", "task-3", "task-2"])
    rest = ann.get(API, params={"limit": 3, "cursor": first.json()["next"]})
    assert names(rest) == ["task-1", "task-0"]
    assert rest.json()["next"] is None


def test_filters_are_parameters(client: Client, history: Engine) -> None:
    record(history, a_run(9, name="odd", status="Failed", model="knn", labels={"team": "blue"}))
    ann = client(history, "token-of-ann")
    wanted = {"namespace": "team-a", "state": "Failed", "model": "knn", "label": "team=blue", "text": "odd"}
    assert names(ann.get(API, params=wanted | {"since": NOON.isoformat()})) == ["odd"]
    assert names(ann.get(API, params=wanted | {"until": NOON.isoformat()})) == []
    assert names(ann.get(API, params={"namespace": "team-b"})) == []


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"limit": "501"}, "limit: '501' is refused: Input should be less than or equal to 500"),
        ({"state": "Broken"}, "state: 'Broken' is refused: Input should be 'Pending', 'Running'"),
        ({"stat": "Failed"}, "stat: 'Failed' is refused: Extra inputs are not permitted"),
        ({"since": "yesterday"}, "since: 'yesterday' is refused"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "is outside of the years 1 to 9999"),
        ({"label": "team"}, "label: 'team' is refused"),
        ({"text": "a\0b"}, "text: "),
        ({"cursor": "x"}, "cursor: the cursor is not one of this list"),
    ],
)
def test_an_invalid_parameter_is_named(
    client: Client, history: Engine, parameters: dict[str, str], sentence: str
) -> None:
    answer = client(history, "token-of-ann").get(API, params=parameters)
    assert answer.status_code == 422
    assert list(answer.json()) == ["detail"]
    assert sentence in answer.json()["detail"]


def test_a_run_with_its_curves_and_events(client: Client, history: Engine) -> None:
    ann = client(history, "token-of-ann")
    run = ann.get(f"{API}/{OF_A}").json()
    assert (run["id"], run["name"], run["create_time"]) == (str(OF_A), "task-1", "2026-05-04T12:01:00Z")
    assert ann.get(f"{API}/{OF_A}/metrics").json() == {"curves": {"training_loss": [[0, 1.0], [1, 0.5], [2, 1 / 3]]}}
    assert ann.get(f"{API}/{OF_A}/metrics", params={"name": "other"}).json() == {"curves": {}}
    assert ann.get(f"{API}/{OF_A}/metrics", params={"points": 2}).json()["curves"]["training_loss"][1] == [2, 1 / 3]
    (event,) = ann.get(f"{API}/{OF_A}/events").json()["items"]
    assert event == {"time": "2026-05-04T12:01:00Z", "type": "Accepted", "reason": "Accepted", "message": "m"}


PATHS_OF_B = [
    f"{API}/{OF_B}",
    f"{API}/{OF_B}/metrics",
    f"{API}/{OF_B}/events",
    f"{API}/compare?ids={OF_B}",
    f"{API}/compare?ids={OF_A},{OF_B}",
    f"/{OF_B}",
]


@pytest.mark.parametrize("path", PATHS_OF_B)
def test_an_invisible_run_looks_like_a_missing_one(client: Client, history: Engine, path: str) -> None:
    absent = uuid.UUID(int=1)
    ann = client(history, "token-of-ann")
    forbidden = ann.get(path)
    missing = ann.get(path.replace(str(OF_B), str(absent)))
    assert (forbidden.status_code, missing.status_code) == (404, 404)
    assert forbidden.text.replace(str(OF_B), "") == missing.text.replace(str(absent), "")
    assert client(history, "token-of-bob").get(path.replace(f"{OF_A},", "")).status_code == 200


@pytest.mark.parametrize("token", ["token-of-ann", "token-of-bob", "token-of-eve", "token-of-admin"])
def test_lists_hold_the_runs_of_the_principals_scope(client: Client, history: Engine, token: str) -> None:
    mine = {"token-of-ann": range(5), "token-of-bob": range(5, 8), "token-of-admin": range(8)}.get(token, range(0))
    expected = [f"task-{number}" for number in reversed(mine)]
    principal = client(history, token)
    assert names(principal.get(API)) == expected
    assert names(principal.get(f"{API}/export", params={"format": "json"})) == expected
    assert [row["name"] for row in csv.DictReader(io.StringIO(principal.get(f"{API}/export").text))] == expected
    assert [run["name"] for run in principal.get("/").json()] == expected


def test_runs_of_a_deleted_namespace_are_visible_to_admins_only(
    client: Client, history: Engine, kubernetes: FakeApiServer
) -> None:
    kubernetes.namespaces["team-a"] = "uid-of-the-new-team-a"
    assert names(client(history, "token-of-ann").get(API)) == []
    assert len(names(client(history, "token-of-admin").get(API))) == 8


def test_a_comparison_has_differences_scores_and_curves(client: Client, engine: Engine) -> None:
    specs = [{"training": {"epochs": epochs, "seed": 1}, "model": {"name": "bert"}} for epochs in (3, 5)]
    runs = [
        a_run(number, spec=spec, evaluate_result={"micro": {"f1": 0.5 + number}, "per_label": [], "split": "test"})
        for number, spec in enumerate(specs)
    ]
    runs.append(a_run(2, spec=None))
    points = [MetricPoint(run_id=runs[0].id, name="training_loss", step=1, value=1.0)]
    record_many(engine, runs, points=points)
    answer = client(engine, "token-of-ann").get(f"{API}/compare", params={"ids": ",".join(str(run.id) for run in runs)})
    found = answer.json()
    assert [run["name"] for run in found["runs"]] == ["task-0", "task-1", "task-2"]
    assert found["differences"] == [
        {"path": "model.name", "values": ["bert", "bert", None]},
        {"path": "training.epochs", "values": [3, 5, None]},
        {"path": "training.seed", "values": [1, 1, None]},
    ]
    assert found["scores"] == [{"path": "micro.f1", "values": [0.5, 1.5, None]}]
    assert found["curves"] == {"training_loss": [[[1, 1.0]], [], []]}


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ("", "ids: '' is no id of a run"),
        (f"{OF_A},x", "ids: 'x' is no id of a run"),
        (",".join(str(uuid.UUID(int=number)) for number in range(9, 20)), "ids"),
    ],
)
def test_invalid_or_too_many_compared_ids_are_refused(client: Client, history: Engine, ids: str, sentence: str) -> None:
    answer = client(history, "token-of-ann").get(f"{API}/compare", params={"ids": ids})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)


def test_a_truncated_export_is_marked(client: Client, history: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = client(history, "token-of-ann")
    assert ann.get(f"{API}/export", params={"format": "json"}).json()["truncated"] is False
    monkeypatch.setattr(export, "MAX_RUNS", 2)
    cut = ann.get(f"{API}/export", params={"format": "json"})
    assert (names(cut), cut.json()["truncated"]) == (["task-4", "task-3"], True)
    table = ann.get(f"{API}/export", params={"text": "task"})
    assert table.headers["X-Export-Limit"] == "2"
    assert table.headers["Content-Disposition"] == 'attachment; filename="runs.csv"'
    assert len(table.text.splitlines()) == 3


def test_no_cell_of_an_export_is_a_formula(client: Client, engine: Engine) -> None:
    record(engine, of_team_b(1, model='=HYPERLINK("http://x")', total_time=-0.5))
    table = client(engine, "token-of-bob").get(f"{API}/export").text
    (row,) = csv.DictReader(io.StringIO(table))
    assert (row["model"], row["total_time"]) == ('\'=HYPERLINK("http://x")', "-0.5")


def test_no_cell_of_the_errors_of_a_run_is_a_formula(client: Client, engine: Engine) -> None:
    errors = {"per_label": [{"label": "=1+1", "false_positives": 3}, "broken"]}
    run = of_team_b(1, training_result={"label_errors": errors})
    record(engine, run)
    address = f"{API}/{run.id}/errors"
    bob = client(engine, "token-of-bob")
    assert bob.get(address, params={"table": "labels"}).text.splitlines()[1:] == ["'=1+1,3,,,"]
    assert bob.get(address, params={"table": "pairs"}).text.splitlines() == ["predicted,given,rows"]
    assert client(engine, "token-of-ann").get(address, params={"table": "labels"}).status_code == 404
    assert bob.get(address).status_code == 422


def test_an_export_of_many_pages_is_whole(client: Client, engine: Engine) -> None:
    record_many(engine, [a_run(number) for number in range(1201)])
    ann = client(engine, "token-of-ann")
    expected = [f"task-{number}" for number in reversed(range(1201))]
    assert names(ann.get(f"{API}/export", params={"format": "json"})) == expected
    assert [row["name"] for row in csv.DictReader(io.StringIO(ann.get(f"{API}/export").text))] == expected


def test_auth_none_shows_all_runs_and_disables_creation(client: Client, history: Engine) -> None:
    anonymous = client(history, TRAININGTASK_WEB_AUTH="none")
    assert len(names(anonymous.get(API))) == 8
    assert anonymous.post("/", json={"DATASET_NAME": "go_emotions", "MODEL_NAME": "knn"}).status_code == 405
    assert "post" not in anonymous.get("/openapi.json").json()["paths"]["/"]


def test_health_and_api_docs_need_no_authentication(client: Client, history: Engine) -> None:
    anonymous = client(history)
    for path in ("/healthz", "/readyz", "/docs", "/docs/start.js", "/docs/files/swagger-ui-bundle.js", "/openapi.json"):
        assert anonymous.get(path).status_code == 200, path
    page = anonymous.get("/docs").text
    assert "http" not in page.replace("<title>TrainingTask: HTTP API", "")
    nowhere = anonymous.get("/nowhere")
    assert (nowhere.status_code, nowhere.json()["detail"]) == (
        404,
        "There is nothing at '/nowhere': /docs lists what there is.",
    )
