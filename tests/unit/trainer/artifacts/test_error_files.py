"""The files that show a model's mistakes: of a run, and of texts and labels by an attacker."""

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from support.specs import CLASSICAL, changed
from support.specs import task as manifest_of
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.artifacts import label_issues
from trainingtask_trainer.artifacts.error_file_names import ERROR_FILES
from trainingtask_trainer.artifacts.error_files import write_error_files
from trainingtask_trainer.artifacts.predictions import Metadata
from trainingtask_trainer.datasets.base import Split
from trainingtask_trainer.evaluation.label_errors import PredictedRows, report_label_errors
from trainingtask_trainer.evaluation.repeated_texts import RepeatedTexts
from trainingtask_trainer.evaluation.thresholds import choose_thresholds

RunTask = Callable[..., Path]

HOSTILE = (
    "</td></table><script>alert(1)</script>",
    '=HYPERLINK("http://evil.example/")',
    "\u202eright to left, and \x00",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}]]></Choice>",
)


@pytest.fixture(scope="module")
def run_task(tmp_path_factory: pytest.TempPathFactory) -> RunTask:
    """Return a function that trains on 200 tickets and gives the folder of the model."""
    root = tmp_path_factory.mktemp("runs")

    def run(name: str, **fields: Any) -> Path:
        spec = changed(CLASSICAL, dataset__sampleSize=200, output__volumeClaim="models", **fields)
        (root / "task.yaml").write_text(yaml.safe_dump(manifest_of(name, spec)))
        arguments = [f"--output-dir={root}", f"--history=sqlite:///{root}/history.db"]
        assert main(["run", str(root / "task.yaml"), *arguments]) == 0
        return root / name

    return run


@pytest.fixture(scope="module")
def plain(run_task: RunTask) -> Path:
    return run_task("plain")


@pytest.fixture(scope="module")
def folded(run_task: RunTask) -> Path:
    return run_task("folded", evaluation__folds=3, output__keepTexts=True)


def read_table(model: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO((model / "label-issues.csv").read_bytes().decode(), newline="")))


def read_results(model: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((model / "results.json").read_text())
    return results


def test_folds_look_at_the_training_rows_and_leave_the_model_alone(
    plain: Path, folded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, found = read_results(plain), read_results(folded)
    for name in ("loss", "meanAveragePrecision", "rocAuc", "calibration"):
        assert found["evaluation"][name] == expected["evaluation"][name]
    rows = [row for row in pq.read_table(folded / "predictions.parquet").to_pylist() if row["split"] != "test"]
    labels = json.loads((folded / "trainingtask.json").read_text())["labels"]
    truth = np.array([[label in row["labels"] for label in labels] for row in rows], np.uint8)
    tuned = choose_thresholds(None, truth, np.array([row["probabilities"] for row in rows]))
    assert found["evaluation"]["threshold"] == pytest.approx(tuned.shared_value)
    assert found["evaluation"]["threshold"] != expected["evaluation"]["threshold"]
    assert "on the validation rows and, out of fold, the training rows)" in (folded / "README.md").read_text()
    assert "on the validation rows)" in (plain / "README.md").read_text()
    errors = found["labelErrors"]
    assert errors["folds"] == 3
    assert errors["rows"] == found["trainRows"] + found["validationRows"] + found["evaluation"]["rows"]
    assert "folds" not in expected["labelErrors"]
    assert {path.name for path in folded.iterdir()} >= set(ERROR_FILES)
    assert {path.name for path in plain.iterdir()} & set(ERROR_FILES) == set(ERROR_FILES[:3])
    header, *lines = read_table(folded)
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert len(rows) == errors["suspectedMissing"] + errors["suspectedSurplus"]
    assert {row["kind"] for row in rows} == {"missing", "surplus"}
    assert {row["split"] for row in rows} >= {"train", "test"}
    assert rows == sorted(rows, key=lambda row: float(row["score"]))
    assert "text" not in read_table(plain)[0]
    capsys.readouterr()
    assert main(["compare", str(plain), str(folded)]) == 0
    assert "average precision: the difference may be chance" in capsys.readouterr().out


def test_no_text_of_a_row_leaves_without_being_asked_for(plain: Path, folded: Path) -> None:
    texts = [task["data"]["text"] for task in json.loads((folded / "label-studio.json").read_text())]
    assert texts
    for name in ERROR_FILES[:3]:
        content = (plain / name).read_bytes()
        assert not any(text.encode() in content for text in texts)


@pytest.fixture
def hostile_model(tmp_path: Path) -> Path:
    """Return a folder with the files of mistakes about hostile texts and labels."""
    truth = np.eye(len(HOSTILE), dtype=np.uint8)
    predicted = np.roll(truth, 1, axis=1)
    part = PredictedRows(
        "test", Split([f"{text} \ud800" for text in HOSTILE], truth), np.abs(predicted - 0.05), predicted
    )
    report = report_label_errors(HOSTILE, [part], None, RepeatedTexts(0, 0))
    metadata = Metadata(labels=HOSTILE, test_fingerprint="a" * 64)
    write_error_files(tmp_path, "a-task", metadata, [part], report, keep_texts=True)
    return tmp_path


class Page(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_texts_and_labels_are_text_on_the_page(hostile_model: Path) -> None:
    content = (hostile_model / "errors.html").read_text(encoding="utf-8")
    page = Page(content)
    assert not page.tags & {"script", "img", "iframe", "link", "object", "form"}
    assert not {name for name in page.attributes if name.startswith("on")} | (page.attributes & {"src", "srcset"})
    for text in HOSTILE:
        assert text.replace("\x00", "\ufffd") in page.text.replace("\x00", "\ufffd")
    assert "default-src 'none'" in content
    assert set(re.findall(r'href="([^"]*)"', content)) == {f"#label-{index}" for index in range(1, 6)}


def test_no_cell_of_the_suspected_labels_is_a_formula(hostile_model: Path) -> None:
    rows = read_table(hostile_model)
    assert rows[0] == ["split", "source", "row", "label", "kind", "probability", "score", "given", "predicted", "text"]
    assert len(rows) == 1 + 2 * len(HOSTILE)
    assert not [cell for row in rows[1:] for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_label_studio_gets_each_row_once_with_the_predicted_labels(hostile_model: Path) -> None:
    tasks = json.loads((hostile_model / "label-studio.json").read_text(encoding="utf-8"))
    assert sorted(task["data"]["row"] for task in tasks) == [1, 2, 3, 4, 5]
    for task in tasks:
        [prediction] = task["predictions"]
        [result] = prediction["result"]
        assert task["data"]["text"].startswith(HOSTILE[task["data"]["row"] - 1])
        assert result["value"]["choices"] == [HOSTILE[task["data"]["row"] % 5]]
        assert (result["type"], result["from_name"], result["to_name"]) == ("choices", "labels", "text")
        assert prediction["score"] == pytest.approx(0.95)
    view = ElementTree.parse(hostile_model / "label-studio.xml").getroot()
    names = {element.get("name"): element.tag for element in view}
    assert (names["labels"], names["text"]) == ("Choices", "Text")
    choices = [element.get("value") for element in view.iter("Choice")]
    assert choices == [label.replace("\x00", "\ufffd") for label in HOSTILE]


def test_the_list_of_suspected_labels_is_bounded_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_issues, "MAX_ISSUES", 3)
    truth = np.tile(np.eye(2, dtype=np.uint8), (20, 1))
    part = PredictedRows("test", Split(["text"] * 40, truth), np.abs(truth - 0.9), 1 - truth)
    report = report_label_errors(["a", "b"], [part], None, RepeatedTexts(0, 0))
    listed = label_issues.select_suspected(report.mistakes)
    assert listed.is_missing.tolist().count(True) == listed.is_missing.tolist().count(False) == 3
    assert report.summary.suspected_missing == 40
