import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError


def table(path: str, **fields: object) -> Dataset:
    return Dataset.model_validate({"name": "table", "volumeClaim": "data", "path": path, **fields})


ROWS = [("one, two", ["a", "b"]), ("three", ["b"]), ("four", []), ("five", ["a"])]
MATRIX = [[1, 1], [0, 1], [0, 0], [1, 0]]
FORMATS = ("csv", "tsv", "jsonl", "parquet")


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows in the format of the path's ending; in delimited text a list becomes JSON."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow(json.dumps(cell) if isinstance(cell, list) else cell for cell in row.values())


def delimited(labels: list[str]) -> dict[str, object]:
    return {"labels": ";".join(labels)}


def as_list(labels: list[str]) -> dict[str, object]:
    return {"labels": labels}


def indicators(labels: list[str]) -> dict[str, object]:
    return {name: int(name in labels) for name in ("b", "a")}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("form", "columns"),
    [(delimited, {"delimiter": ";"}), (as_list, {}), (indicators, {"indicators": ["a", "b"]})],
)
def test_every_format_reads_every_form_of_labels(
    tmp_path: Path, ending: str, form: object, columns: dict[str, object]
) -> None:
    assert callable(form)
    write(tmp_path / f"data.{ending}", [{"text": text, **form(labels)} for text, labels in ROWS])
    data = Table().load(table(f"data.{ending}", columns=columns), tmp_path)
    assert data.label_names == ("a", "b")
    assert data.train.texts == [text for text, _ in ROWS]
    assert data.train.labels.tolist() == MATRIX
    assert (data.validation, data.test) == (None, None)


@pytest.mark.parametrize("values", [(1.0, 0.0), (True, False), ("true", "False"), (" 1", "0 ")])
def test_indicators_may_be_numbers_booleans_or_words(tmp_path: Path, values: tuple[object, object]) -> None:
    rows = [{"body": text, **{name: values[name not in labels] for name in "ab"}} for text, labels in ROWS]
    write(tmp_path / "data.parquet", rows)
    data = Table().load(table("data.parquet", columns={"text": "body", "indicators": ["a", "b"]}), tmp_path)
    assert data.train.labels.tolist() == MATRIX


def test_a_label_that_is_written_twice_in_a_row_counts_once(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text('text,labels\nx,"a, a"\ny,"b,"\nz,b\n')
    with pytest.raises(UserError, match="only this row has label 'a'"):
        Table().load(table("data.csv"), tmp_path)


def test_a_folder_holds_one_file_per_split(tmp_path: Path) -> None:
    rows = [{"text": text, "labels": labels} for text, labels in ROWS]
    for name in ("train.csv", "dev.csv", "test.jsonl"):
        write(tmp_path / name, rows)
    data = Table().load(table("."), tmp_path)
    assert data.validation is not None
    assert data.test is not None
    assert data.test.labels.tolist() == MATRIX


def test_one_row_to_learn_from_and_one_to_score_on_are_enough(tmp_path: Path) -> None:
    write(
        tmp_path / "train.csv",
        [{"text": text, "labels": label} for text, label in [("x", "a"), ("y", "b"), ("z", "b")]],
    )
    write(tmp_path / "test.csv", [{"text": "w", "labels": "a"}])
    assert Table().load(table("."), tmp_path).label_names == ("a", "b")


def test_top_labels_forgive_rare_ones(tmp_path: Path) -> None:
    rows = [{"text": f"{number}", "labels": "often" if number % 2 else "common"} for number in range(20)]
    write(tmp_path / "data.csv", [*rows, {"text": "x", "labels": "once"}])
    with pytest.raises(UserError, match=r"only this row has label 'once'.*dataset.topLabels"):
        Table().load(table("data.csv"), tmp_path)
    spec = table("data.csv", topLabels=2)
    assert prepare_data(Table().load(spec, tmp_path), spec).label_names == ("common", "often")


@pytest.mark.parametrize("labels", ["[a]", '["a", null]', '["a", 0.5]'])
def test_what_looks_like_a_list_and_is_none_is_refused(tmp_path: Path, labels: str) -> None:
    write(tmp_path / "data.csv", [{"text": "x", "labels": labels}])
    with pytest.raises(UserError, match=r"row 2, column 'labels': .* (looks like a list, and is none|is no list)"):
        Table().load(table("data.csv"), tmp_path)
