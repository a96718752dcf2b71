"""The command as a person and a pod run it: in a process of its own where that makes a difference."""

import io
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.specs import CLASSICAL, TABLE, changed
from support.specs import task as manifest
from trainingtask_api import TableColumns, names
from trainingtask_api.capabilities import CLASSICAL_MODELS
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.manifest import read_task

WriteTask = Callable[..., Path]
TICKETS = Path(__file__).parents[3] / "examples" / "data" / "tickets.csv"


def row_in(path: Path) -> dict[str, Any]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    [row] = connection.execute("SELECT * FROM training_run").fetchall()
    connection.close()
    return dict(row)


# The first task's history stands in the default place.
WITHOUT_TORCH = """
import sys
from pathlib import Path
from trainingtask_trainer.__main__ import main
first, *others = sys.argv[1:]
assert main(["run", first]) == 0
for task in others:
    assert main(["run", task, "--history=sqlite:///others.db"]) == 0
    assert main(["predict", f"out/{Path(task).stem}", "a text"]) == 0
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_classical_model_from_task_to_prediction_without_torch(
    tmp_path: Path, write_task: WriteTask, read_json: Callable[[Path], Any]
) -> None:
    task = write_task(changed(CLASSICAL, output__volumeClaim="models"), name="tickets")
    others = [
        write_task(changed(CLASSICAL, model__name=model, dataset__sampleSize=100, output__volumeClaim="models"), model)
        for model in CLASSICAL_MODELS
    ]
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, [task, *others])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    phases = [line for line in done.stderr.splitlines() if " " not in line]
    assert phases[:6] == ["Starting", "Loading", "Preprocessing", "Training", "Evaluating", "Saving"]
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"tickets", *CLASSICAL_MODELS}

    results = read_json(tmp_path / "out" / "tickets" / "results.json")
    assert results["trainRows"] == 1071
    assert 0.8 < results["evaluation"]["micro"]["f1"] < 1
    assert results["arguments"]["model.strategy"] == "one_vs_rest"
    assert "torch" not in results["versions"]
    assert results["peakMemoryBytes"] > 50 << 20
    [warning] = results["warnings"]
    assert warning.startswith(
        f"{results['validationTextsInTrain']} of {results['validationRows']} validation rows and "
    )
    assert f"  micro-F1 {results['evaluation']['micro']['f1']:27.3f}" in done.stdout
    assert (tmp_path / "out" / "tickets" / "README.md").read_text().startswith("---\nlibrary_name: sklearn\n")

    row = row_in(tmp_path / "trainingtask-history.db")
    assert (row["name"], row["status"], row["attempt"]) == ("tickets", "Succeeded", 1)
    assert json.loads(row["evaluate_result"])["micro"] == results["evaluation"]["micro"]

    # The same task again takes the model's place and gives the same numbers.
    assert main(["run", str(task), "--output-dir", str(tmp_path / "out"), "--history", f"sqlite:///{tmp_path}/2"]) == 0
    again = read_json(tmp_path / "out" / "tickets" / "results.json")
    assert again["dataFingerprint"] == results["dataFingerprint"]
    assert again["evaluation"]["micro"] == results["evaluation"]["micro"]
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"tickets", *CLASSICAL_MODELS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict")
    (root / "task.yaml").write_text(yaml.safe_dump(manifest("m", changed(CLASSICAL, output__volumeClaim="models"))))
    history = f"sqlite:///{root}/history.db"
    assert main(["run", str(root / "task.yaml"), "--output-dir", str(root), "--history", history]) == 0
    return root / "m"


def test_predict_texts(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the dashboard is very slow. Also, I want to cancel the plan that includes the API."
    assert main(["predict", str(model), text]) == 0
    labels, shown = capsys.readouterr().out.rstrip("\n").split("\t")
    assert shown == text
    assert {label.split()[0] for label in labels.split(", ")} == {"billing", "performance"}


def test_predict_lines_as_json(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("where can I find the export?\n\nthe API is very slow\n"))
    assert main(["predict", str(model), "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [label["label"] for label in first["labels"]] == ["how_to"]
    assert second["text"] == "the API is very slow"


def test_a_standard_input_that_is_not_utf_8_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("a caf\xe9\n".encode("latin-1")), "utf-8"))
    assert main(["predict", str(model)]) == 64
    assert capsys.readouterr().err.startswith("the standard input is not UTF-8: 'utf-8' codec can't decode byte 0xe9")


def test_a_file_is_labelled_by_the_column_that_the_model_was_trained_on(tmp_path: Path) -> None:
    columns = {"text": "body", "labels": "topics", "delimiter": "|"}
    spec = changed(TABLE, dataset__path="tickets.csv", dataset__columns=columns, output__volumeClaim="models")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(manifest("m", spec)))
    folders = [f"--dataset-dir={TICKETS.parent}", f"--output-dir={tmp_path}"]
    assert main(["run", str(tmp_path / "task.yaml"), *folders, f"--history=sqlite:///{tmp_path}/history.db"]) == 0
    output = tmp_path / "labels.jsonl"
    assert main(["predict", str(tmp_path / "m"), f"--input={TICKETS}", f"--output={output}"]) == 0
    labels = [{label["label"] for label in json.loads(line)["labels"]} for line in output.read_text().splitlines()]
    assert labels[:2] == [{"access", "billing"}, {"billing"}]


@pytest.mark.parametrize(
    "options", [["--json", "{model}", "a", "b"], ["{model}", "--json", "a", "b"], ["{model}", "a", "b", "--json"]]
)
def test_texts_may_follow_an_option(options: list[str], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *(option.format(model=model) for option in options)]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize("arguments", [["predict", "m", "a", "--jsn"], ["download", "m", "f", "a"]])
def test_unknown_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert f"unrecognized arguments: {arguments[-1]}" in capsys.readouterr().err


def test_predict_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path), "x"]) == 64
    assert "is not a saved model, trainingtask.json is missing: it holds nothing" in capsys.readouterr().err


def test_bad_spec_is_told_at_once(tmp_path: Path, write_task: WriteTask) -> None:
    task = write_task(changed(CLASSICAL, dataset__sampleSize=0, device="tpu"))
    command = [sys.executable, "-m", "trainingtask_trainer", "run", str(task)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "spec.dataset.sampleSize: 0 is refused: Input should be greater than or equal to 10" in done.stderr
    assert "spec.device: 'tpu' is refused" in done.stderr
    assert not (tmp_path / "trainingtask-history.db").exists()


def test_fewer_processes_than_the_task_asks_for_are_a_warning(
    tmp_path: Path,
    write_task: WriteTask,
    tiny_models: Path,
    read_json: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    embedding = {"name": "embedding", "volumeClaim": "m", "checkpoint": "bert"}
    spec = changed(
        CLASSICAL, preprocessor=embedding, resources={"nodes": 2}, dataset__sampleSize=100, output__volumeClaim="o"
    )
    assert main(["run", str(write_task(spec)), f"--preprocessor-dir={tiny_models}"]) == 0
    warnings = read_json(tmp_path / "out" / "a-task" / "results.json")["warnings"]
    assert any(warning.startswith("1 process trained this, where resources.nodes") for warning in warnings), warnings


def test_missing_data_is_the_same_sentence_everywhere(
    tmp_path: Path,
    write_task: WriteTask,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(names.ENV_FAILURE_COUNT, "2")
    assert main(["run", str(write_task(TABLE))]) == 64
    sentence = (
        "Loading failed: dataset.path 'mine/tickets.csv' does not exist in volume claim 'data' (mine/tickets.csv): "
    )
    printed = capsys.readouterr().err
    assert f"DatasetNotFound: {sentence}" in printed
    assert not caplog.records  # no traceback
    row = row_in(tmp_path / "trainingtask-history.db")
    assert (row["status"], row["error_reason"], row["attempt"]) == ("Failed", "DatasetNotFound", 3)
    assert row["error_message"] in printed
    assert row["finish_time"] is not None


def test_a_crash_is_a_fault_with_a_traceback(
    tmp_path: Path, write_task: WriteTask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("wires crossed")

    monkeypatch.setattr("trainingtask_trainer.datasets.support_tickets.SupportTickets.load", crash)
    history = tmp_path / "history.db"
    assert main(["run", str(write_task(CLASSICAL)), "--history", f"sqlite:///{history}"]) == 1
    assert "TrainerCrashed: Loading failed: RuntimeError: wires crossed" in capsys.readouterr().err
    assert row_in(history)["error_reason"] == "TrainerCrashed"


def test_unusable_history_is_refused(tmp_path: Path, write_task: WriteTask, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write_task(CLASSICAL)), "--history", "mysql://root:hunter2@host/db"]) == 64
    err = capsys.readouterr().err
    assert "the history URL must start with postgresql:// or sqlite:///" in err
    assert "hunter2" not in err


def test_a_dead_database_fails_nothing(
    write_task: WriteTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainingtask_trainer.reporting.history._FINAL_TIMEOUT", 1.0)
    url = "postgresql://trainer:hunter2@127.0.0.1:9/history"
    assert main(["run", str(write_task(CLASSICAL)), "--history", url]) == 0
    assert "the history cannot be reached, training goes on" in caplog.text
    assert "The last report did not reach the history" in caplog.text
    assert "hunter2" not in caplog.text


def test_sigterm_ends_with_a_sentence_and_143(tmp_path: Path, write_task: WriteTask) -> None:
    spec = changed(CLASSICAL, model__name="random_forest", training__trees=10_000, output__volumeClaim="models")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainingtask_trainer", "run", str(write_task(spec))],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/1" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 143, rest
    assert "Interrupted: Training was interrupted by SIGTERM" in rest
    row = row_in(tmp_path / "trainingtask-history.db")
    assert (row["status"], row["finish_time"]) == ("Interrupted", None)
    assert list((tmp_path / "out").glob("[!.]*")) == []


def test_a_pods_task_file_is_json_with_any_character(tmp_path: Path) -> None:
    columns = {"text": "b\N{GRINNING FACE}dy", "labels": "labels"}
    spec = {
        "dataset": {"name": "table", "volumeClaim": "c", "path": "p.csv", "columns": columns},
        "model": {"name": "logistic_regression"},
    }
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps(manifest("t", spec)), encoding="utf-8")
    assert read_task(path).spec.dataset.columns == TableColumns(text=columns["text"], labels="labels")


def test_an_installation_of_the_plugin_alone_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainingtask_trainer.__main__.find_spec", lambda name: None)
    assert main(["predict", "model", "a text"]) == 64
    assert "pip install '.[trainer]'" in capsys.readouterr().err
