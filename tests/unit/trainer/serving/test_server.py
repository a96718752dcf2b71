"""The server as a process: what it answers, when it is overloaded, and how it stops."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from support.served_models import HeldModel, ModelServer, run_model_server, write_held_model
from support.specs import CLASSICAL, changed
from support.specs import task as manifest_of
from trainingtask_api.exports import Format
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.serving import server as server_module

TEXTS = ["the dashboard is very slow", "I want to cancel the plan that includes the API", "hello", ""]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    spec = changed(CLASSICAL, output__volumeClaim="x", output__formats=["skops", "onnx"])
    (root / "task.yaml").write_text(yaml.safe_dump(manifest_of("tickets", spec)))
    arguments = [f"--output-dir={root}", f"--history=sqlite:///{root}/history.db"]
    assert main(["run", str(root / "task.yaml"), *arguments]) == 0
    return root / "tickets"


@pytest.fixture
def held(tmp_path: Path) -> HeldModel:
    return write_held_model(tmp_path)


@pytest.fixture
def server(held: HeldModel) -> Iterator[ModelServer]:
    with run_model_server(str(held.folder), f"--code-dir={held.code}") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    model = write_held_model(tmp_path_factory.mktemp("shared"), text_columns=("subject", "body"))
    with run_model_server(str(model.folder), f"--code-dir={model.code}", "--name=served") as running:
        yield running


@pytest.mark.parametrize("kind", ["skops", "onnx"])
def test_served_labels_are_those_of_predict(trained: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    capsys.readouterr()
    assert main(["predict", str(trained), *TEXTS, "--json", f"--format={kind}"]) == 0
    expected = [json.loads(line)["labels"] for line in capsys.readouterr().out.splitlines()]
    assert any(expected)
    labels = json.loads((trained / "trainingtask.json").read_text())["labels"]
    with run_model_server(str(trained), f"--format={kind}") as server:
        answer = server.client.post("/predict", json={"texts": TEXTS})
        assert [text["labels"] for text in answer.json()["predictions"]] == expected

        tensor = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
        answer = server.client.post("/v2/models/tickets/infer", json={"id": "7", "inputs": [tensor]})
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        assert (answer.json()["id"], answer.json()["model_name"]) == ("7", "tickets")
        assert outputs["probabilities"]["shape"] == [len(TEXTS), len(labels)]
        assert outputs["label_names"]["data"] == labels
        chosen = [[label["label"] for label in row] for row in expected]
        assert [json.loads(cell) for cell in outputs["labels"]["data"]] == chosen
        probability = outputs["probabilities"]["data"][labels.index(chosen[0][0])]
        assert probability == expected[0][0]["probability"]


def test_a_row_is_its_text_columns_and_order_is_kept(shared: ModelServer) -> None:
    rows = [{"subject": "a" * 20, "body": "b" * 60, "id": 1}, {"subject": "a", "body": None}]
    answer = shared.client.post("/predict", json={"rows": rows}).json()["predictions"]
    assert answer[0]["labels"] == [{"label": "long", "probability": 0.81}]  # with a line break between the two
    assert answer[1]["labels"] == [{"label": "short", "probability": 0.99}]
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [2, 1], "data": [[row[name] or ""] for row in rows]}
        for name in ("subject", "body")
    ]
    body = {"inputs": tensors, "outputs": [{"name": "probabilities"}]}
    [output] = shared.client.post("/v2/models/served/infer", json=body).json()["outputs"]
    assert output["data"] == pytest.approx([0.81, 0.19, 0.01, 0.99])


def test_a_text_column_is_found_in_spite_of_case_and_blanks(shared: ModelServer) -> None:
    rows = [{"subject": "a" * 20, "body": "b" * 60}, {"Subject": "a" * 20, " BODY": "b" * 60}]
    first, second = shared.client.post("/predict", json={"rows": rows}).json()["predictions"]
    assert first == second


def test_the_protocol_describes_server_and_model(shared: ModelServer) -> None:
    get = shared.client.get
    assert get("/v2").json().keys() == {"name", "version", "extensions"}
    assert get("/v2/health/live").json() == get("/healthz").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/served/ready").json() == {"name": "served", "ready": True}
    model = get("/v2/models/served").json()
    assert model["inputs"][1] == {"name": "body", "datatype": "BYTES", "shape": [-1]}
    assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]}
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/served/versions/1", "/nothing"):
        assert get(path).status_code == 404
        assert get(path).json().keys() == {"error"}
    assert get("/predict").status_code == 405


DEEP = '{"rows": [{"body": ' + "[" * 100_000 + "]" * 100_000 + "}]}"
MANY_NAMES = json.dumps(dict.fromkeys(map(str, range(60_000)), 0))
ONE = '{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["x"]}'
REFUSED = [
    ("/predict", b"", 400, "the body is not JSON: EOF"),
    ("/predict", b'{"texts": ["a"', 400, "the body is not JSON: EOF while parsing a list"),
    ("/predict", b'{"texts": ["\xe9"]}', 400, "the body is not JSON: invalid unicode code point"),
    ("/predict", b'{"texts": ["\\ud800"]}', 400, "the body is not JSON: "),
    ("/predict", DEEP.encode(), 400, "the body is not JSON: recursion limit exceeded"),
    ("/predict", b"[]", 422, "the body: Input should be an object"),
    ("/predict", b"{}", 422, "the body: give either 'texts', a list of strings, or 'rows'"),
    ("/predict", b'{"texts": []}', 422, "texts: List should have at least 1 item"),
    ("/predict", b'{"texts": "a"}', 422, "texts: Input should be a valid array"),
    ("/predict", b'{"texts": [1e999]}', 422, "texts.0: Input should be a valid string"),
    ("/predict", b'{"texts": [NaN]}', 422, "texts.0: Input should be a valid string"),
    ("/predict", b'{"texts": ["a"], "more": 1}', 422, "more: Extra inputs are not permitted"),
    ("/predict", MANY_NAMES.encode(), 422, "the body: 60000 of its values and names are refused"),
    ("/predict", b'{"texts": ["' + b"a" * 100_001 + b'"]}', 422, "texts.0: String should have at most 100000"),
    ("/predict", b'{"texts": [' + b'"",' * 128 + b'""]}', 422, "texts: List should have at most 128 items"),
    ("/predict", b'{"rows": [{"text": "a"}]}', 422, "a JSON object for this model has text under subject, body;"),
    ("/predict", b'{"rows": [{"body": NaN}]}', 422, "a JSON object for this model has text under subject, body;"),
    (
        "/predict",
        b'{"rows": [{"subject": 404, "body": "a"}]}',
        422,
        "a JSON object for this model has text or null under",
    ),
    (
        "/predict",
        b'{"rows": [{"Body": "a", "BODY": "b"}]}',
        422,
        "a JSON object for this model has one 'body'; this one",
    ),
    ("/predict", b" " * ((1 << 20) + 1), 413, "the body has more than 1048576 bytes: send fewer texts at a time"),
    ("/v2/models/other/infer", b"{}", 404, "there is no such model, only 'served'"),
    ("/v2/models/served/infer", b'{"inputs": []}', 422, "inputs: List should have at least 1 item"),
    ("INFER", ONE.replace("[1]", "[2]"), 422, "inputs.0: the shape [2] is not that of 1 texts: give [1] or [1, 1]"),
    ("INFER", ONE.replace("[1]", "[" + "9" * 5000 + "]"), 400, "the body is not JSON: number out of range"),
    ("INFER", ONE.replace("BYTES", "FP32"), 422, "inputs.0.datatype: Input should be 'BYTES'"),
    (
        "INFER",
        ONE.replace('"text"', '"body"'),
        422,
        "inputs: body is refused: this model reads 'text', or subject, body",
    ),
    ("INFER", f'{ONE}], "outputs": [{{"name": "labels"}}, {{"name": "labels"}}', 422, "outputs: name each output once"),
    ("INFER", f"{ONE},{ONE}", 422, "inputs: text, text is refused: this model reads 'text', or"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), REFUSED)
def test_a_malformed_body_gets_one_sentence(
    shared: ModelServer, path: str, body: bytes | str, status: int, message: str
) -> None:
    if path == "INFER":
        path, body = "/v2/models/served/infer", f'{{"inputs": [{body}]}}'
    answer = shared.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(message)
    assert len(answer.json()["error"]) < 500


def test_another_charset_is_refused(shared: ModelServer) -> None:
    headers = {"Content-Type": "application/json; charset=latin-1"}
    answer = shared.client.post("/predict", content=b'{"texts": ["a"]}', headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"] == "the charset 'latin-1' is refused: send JSON as UTF-8"


def post(server: ModelServer, *texts: str) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", json={"texts": texts}, timeout=60)


def wait_for_metric(server: ModelServer, line: str) -> None:
    while f"{line}\n" not in server.client.get("/metrics").text:
        assert server.process.poll() is None


def test_requests_that_wait_are_predicted_together(held: HeldModel, server: ModelServer) -> None:
    held.close_gate()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, server, "first")
        with held.hold_batch():
            waiting = [pool.submit(post, server, "a" * length, "b") for length in range(1, 7)]
            wait_for_metric(server, "trainingtask_serve_queue_texts 12.0")
        answers = [request.result().json()["predictions"] for request in waiting]
        assert first.result().status_code == 200
    assert held.batches == [1, 12]
    assert [answer[0]["labels"][0]["probability"] for answer in answers] == [1 - length / 100 for length in range(1, 7)]
    wait_for_metric(server, 'trainingtask_serve_requests_total{code="200",path="/predict"} 7.0')


def test_a_long_text_does_not_share_a_batch_of_many(held: HeldModel, server: ModelServer) -> None:
    texts = [*["a"] * 70, *["b" * 100_000] * 2]
    assert len(post(server, *texts).json()["predictions"]) == 72
    assert held.batches == [64, 7, 1]


def test_a_full_queue_answers_503(held: HeldModel, server: ModelServer) -> None:
    held.close_gate()
    with ThreadPoolExecutor(9) as pool:
        requests = [pool.submit(post, server, "first")]
        with held.hold_batch():
            requests += [pool.submit(post, server, *["a"] * 128) for _ in range(8)]
            wait_for_metric(server, "trainingtask_serve_queue_texts 1024.0")
            refused = post(server, "b")
            assert server.client.get("/v2/health/ready").status_code == 200
        assert [request.result().status_code for request in requests] == [200] * 9
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json() == {"error": "too many requests wait: try again later"}
    assert sum(held.batches) == 1 + 1024


def test_a_request_whose_client_left_is_not_predicted(held: HeldModel, server: ModelServer) -> None:
    held.close_gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, "first")
        with held.hold_batch():
            body = b'{"texts": ["gone", "gone"]}'
            host, port = server.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as connection:
                header = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(header.encode() + body)
                wait_for_metric(server, "trainingtask_serve_queue_texts 2.0")
            wait_for_metric(server, "trainingtask_serve_queue_texts 0.0")
        assert first.result().status_code == 200
    assert post(server, "next").status_code == 200
    assert held.batches == [1, 1]


def test_a_failing_model_is_no_stack_trace(held: HeldModel, server: ModelServer) -> None:
    answer = post(server, "fail")
    assert answer.status_code == 500
    assert "its files cannot be read as model 'lengths:Lengths': RuntimeError: as asked" in answer.json()["error"]
    assert post(server, "next").status_code == 200


def test_sigterm_drains_before_the_server_stops(held: HeldModel) -> None:
    held.close_gate()
    serving = run_model_server(str(held.folder), f"--code-dir={held.code}", drain_seconds=15.0)
    with serving as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, "first")
        with held.hold_batch():
            server.process.send_signal(signal.SIGTERM)
            while server.client.get("/v2/health/ready").status_code == 200:
                pass
            assert server.client.get("/v2/models/lengths/ready").json() == {"name": "lengths", "ready": False}
            assert server.client.get("/healthz").status_code == 200
            late = pool.submit(post, server, "late")
        assert first.result().status_code == 200
        assert late.result().status_code == 200
        assert late.result().headers["Connection"] == "close"
        server.client.close()
        assert server.process.wait() == 0


def test_the_server_imports_no_torch_and_no_scikit_learn() -> None:
    program = "import sys, trainingtask_trainer.serving.server, trainingtask_trainer.models.onnx.model\n"
    program += "print({'torch', 'transformers', 'sklearn', 'pyarrow', 'joblib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_torch_a_model_is_read_as_onnx(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_module._find_format_without_torch(trained) is None
    monkeypatch.setattr(server_module, "find_spec", lambda name: None)
    assert server_module._find_format_without_torch(trained) == Format.ONNX


def test_a_folder_without_a_model_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) == 64
    assert "is not a saved model, trainingtask.json is missing" in capsys.readouterr().err
