"""The routes of the replaced service: its field names, and tasks created with the user's token."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.run_rows import a_run
from trainingtask_api.task import TrainingTask
from trainingtask_history.store import record
from trainingtask_history.tables import run_id

Client = Callable[..., TestClient]
SEVEN: dict[str, Any] = {
    "DATASET_NAME": "go_emotions",
    "MODEL_NAME": "distilbert-base-uncased",
    "N_SAMPLE": 1000,
    "IS_TRAINER": False,
    "EPOCH": 5,
    "BATCH_SIZE": 64,
    "WEIGHT_DECAY": 0.1,
}


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    return sqlite


@pytest.fixture
def ann(client: Client, engine: Engine) -> TestClient:
    return client(engine, "token-of-ann", TRAININGTASK_WEB_NAMESPACE="team-a")


def test_seven_fields_become_a_task(ann: TestClient, kubernetes: FakeApiServer) -> None:
    answer = ann.post("/", json=SEVEN)
    (made,) = kubernetes.created
    record = answer.json()
    assert answer.status_code == 201
    assert made["spec"] == {
        "dataset": {"name": "go_emotions", "sampleSize": 1000},
        "model": {"name": "distilbert", "checkpoint": "distilbert-base-uncased"},
        "training": {"loop": "accelerate", "epochs": 5, "batchSize": 64, "weightDecay": 0.1},
    }
    assert record == record | SEVEN
    assert record["id"] == str(run_id(made["metadata"]["uid"], 1))
    assert answer.headers["Location"] == f"/{record['id']}"
    assert (record["status"], record["namespace"], record["ignored"]) == ("Pending", "team-a", [])
    assert record["name"] == made["metadata"]["name"]
    assert record["name"].startswith("distilbert-base-uncased-")
    TrainingTask.model_validate(made)


def test_a_created_record_is_found_by_its_id(ann: TestClient, engine: Engine, kubernetes: FakeApiServer) -> None:
    key = ann.post("/", json=SEVEN).json()["id"]
    (made,) = kubernetes.created
    uid = made["metadata"]["uid"]
    assert ann.get(f"/{key}").status_code == 404
    arguments = {"training.epochs": 5, "training.loop": "accelerate", "training.batchSize": 64}
    row = a_run(1, id=run_id(uid, 1), task_uid=uid, model="distilbert", spec=made["spec"], training_args=arguments)
    record(engine, row)
    found = ann.get(f"/{key}").json()
    assert found == found | SEVEN | {"status": "Succeeded", "total_time": 60.0}
    assert ann.get("/").json() == [found]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("bert-base-uncased", {"name": "bert", "checkpoint": "bert-base-uncased"}),
        ("google-bert/bert-base-cased", {"name": "bert", "checkpoint": "google-bert/bert-base-cased"}),
        ("FacebookAI/roberta-base", {"name": "roberta", "checkpoint": "FacebookAI/roberta-base"}),
        ("xlnet-base-cased", {"name": "xlnet", "checkpoint": "xlnet-base-cased"}),
        ("albert-base-v2", {"name": "albert", "checkpoint": "albert-base-v2"}),
        ("distilroberta-base", {"name": "auto", "checkpoint": "distilroberta-base"}),
        ("answerdotai/ModernBERT-base", {"name": "auto", "checkpoint": "answerdotai/ModernBERT-base"}),
        ("bert", {"name": "bert"}),
        ("my_model", {"name": "my_model"}),
    ],
)
def test_the_models_name_is_a_model_or_a_checkpoint(
    ann: TestClient, kubernetes: FakeApiServer, name: str, model: dict[str, str]
) -> None:
    answer = ann.post("/", json=SEVEN | {"MODEL_NAME": name})
    assert kubernetes.created[0]["spec"]["model"] == model
    assert answer.json()["MODEL_NAME"] == name


@pytest.mark.parametrize("name", ["random_forest", "knn", "linear_svc", "logistic_regression"])
def test_a_classical_model_reports_ignored_fields(ann: TestClient, kubernetes: FakeApiServer, name: str) -> None:
    answer = ann.post("/", json=SEVEN | {"MODEL_NAME": name}).json()
    spec = kubernetes.created[0]["spec"]
    assert spec == {
        "dataset": {"name": "go_emotions", "sampleSize": 1000},
        "model": {"name": name},
        "training": {},
    }
    assert answer["ignored"] == ["IS_TRAINER", "EPOCH", "BATCH_SIZE", "WEIGHT_DECAY"]
    assert [answer[field] for field in answer["ignored"]] == [None] * 4


def test_two_fields_suffice(ann: TestClient, kubernetes: FakeApiServer) -> None:
    answer = ann.post("/", json={"DATASET_NAME": "support_tickets", "MODEL_NAME": "bert", "N_SAMPLE": None})
    assert answer.json()["IS_TRAINER"] is True
    assert kubernetes.created[0]["spec"]["training"] == {}


def test_generated_names_are_unique_and_short(ann: TestClient, kubernetes: FakeApiServer) -> None:
    long = "owner/" + "x" * 100 + "-base"
    for name in (long, long, "bert", "bert"):
        assert ann.post("/", json=SEVEN | {"MODEL_NAME": name}).status_code == 201
    names = [task["metadata"]["name"] for task in kubernetes.created]
    assert len(set(names)) == 4
    assert max(len(name) for name in names) <= 63


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"EPOCH": 0}, "EPOCH: 0 is refused: Input should be greater than or equal to 1"),
        ({"EPOCH": "3"}, "EPOCH: '3' is refused: Input should be a valid integer"),
        ({"N_SAMPLE": 9}, "N_SAMPLE: 9 is refused: Input should be greater than or equal to 10"),
        ({"WEIGHT_DECAY": 2}, "WEIGHT_DECAY: 2"),
        ({"BATCH_SIZE": 5000}, "BATCH_SIZE: 5000 is refused"),
        ({"IS_TRAINER": "yes"}, "IS_TRAINER: 'yes' is refused"),
        ({"DATASET_NAME": "Go Emotions"}, "DATASET_NAME: 'Go Emotions' is refused: must be a registered name"),
        ({"DATASET_NAME": "table"}, "dataset.volumeClaim with dataset.path, dataset.uri or dataset.hub is required"),
        ({"MODEL_NAME": "auto"}, "model.checkpoint or model.uri is required for model.name 'auto'"),
        ({"LEARNING_RATE": 1}, "LEARNING_RATE: 1 is refused: Extra inputs are not permitted"),
        ({"MODEL_NAME": None}, "MODEL_NAME: "),
    ],
)
def test_an_invalid_field_is_named_by_its_legacy_name(
    ann: TestClient, kubernetes: FakeApiServer, change: dict[str, Any], sentence: str
) -> None:
    answer = ann.post("/", json=SEVEN | change)
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    assert kubernetes.created == []


def test_a_forbidden_creation_returns_kubernetes_message(
    client: Client, engine: Engine, ann: TestClient, kubernetes: FakeApiServer
) -> None:
    elsewhere = ann.post("/", params={"namespace": "team-b"}, json=SEVEN)
    bob = client(engine, "token-of-bob", TRAININGTASK_WEB_NAMESPACE="team-b").post("/", json=SEVEN)
    for answer, name in ((elsewhere, "ann"), (bob, "bob")):
        assert answer.status_code == 403
        assert answer.json()["detail"] == (
            f'trainingtasks.trainingtask.dev is forbidden: User "{name}" cannot create resource "trainingtasks" in API'
            ' group "trainingtask.dev" in the namespace "team-b"'
        )
    assert ann.post("/", params={"namespace": "../x"}, json=SEVEN).status_code == 422
    assert kubernetes.created == []


def test_a_validation_error_of_the_api_server_is_returned(ann: TestClient, kubernetes: FakeApiServer) -> None:
    kubernetes.reject_tasks(422, "TrainingTask is invalid: spec: a rule of the cluster")
    answer = ann.post("/", json=SEVEN)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "TrainingTask is invalid: spec: a rule of the cluster",
    )
    kubernetes.fail("trainingtasks")
    assert ann.post("/", json=SEVEN).status_code == 503


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_that_a_form_could_send_is_refused(ann: TestClient, kubernetes: FakeApiServer, kind: str) -> None:
    answer = ann.post("/", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert kubernetes.created == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"EPOCH": NaN}', b"[" * 30_000])
def test_an_invalid_body_is_refused(ann: TestClient, body: bytes) -> None:
    answer = ann.post("/", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("path", ["/", "/session", "/api/v1/runs"])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_size_is_limited(ann: TestClient, path: str, chunked: bool) -> None:
    body = b" " * (64 * 1024 + 1)
    answer = ann.post(
        path,
        content=iter([body[:1000], body[1000:]]) if chunked else body,
        headers={"Content-Type": "application/json"},
    )
    if path == "/api/v1/runs" and chunked:
        assert answer.status_code == 405  # the body is not read
    elif path == "/session" and chunked:
        assert answer.status_code == 403  # refused as cross-site before the body is read
    else:
        assert answer.status_code == 413
        assert answer.json() == {"detail": "The body is too large: it may have 65536 bytes."}


def test_a_browser_is_redirected_to_the_pages(ann: TestClient) -> None:
    answer = ann.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs")


def test_the_list_is_bounded(ann: TestClient, engine: Engine) -> None:
    for number in range(103):
        record(engine, a_run(number))
    assert len(ann.get("/").json()) == 100
    assert [run["name"] for run in ann.get("/", params={"limit": 2}).json()] == ["task-102", "task-101"]
    assert ann.get("/", params={"limit": 101}).status_code == 422


def test_malformed_fields_of_a_row_are_null(ann: TestClient, engine: Engine) -> None:
    spec = {"dataset": [], "model": {"name": "bert"}, "training": {"epochs": "many"}}
    record(engine, a_run(1, spec=spec, training_args={"training.batchSize": None}))
    (found,) = ann.get("/").json()
    assert (found["DATASET_NAME"], found["MODEL_NAME"], found["EPOCH"], found["IS_TRAINER"]) == (
        "go_emotions",
        "bert",
        None,
        True,
    )
