"""Columns of parquet files whose schema has the names of labels."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.base import RawData
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columnar import iter_parquet
from trainingtask_trainer.sources.data_files import DataFile

NAMES = {"_type": "ClassLabel", "names": ["bad", "good"]}


def write(folder: Path, column: str, cells: list[Any]) -> None:
    feature = {"feature": NAMES} if column == "labels" else NAMES
    info = json.dumps({"info": {"features": {column: feature}}}).encode()
    table = pa.table({"text": [f"text {row}" for row in range(len(cells))], column: cells})
    pq.write_table(table.replace_schema_metadata({b"huggingface": info}), folder / "d.parquet")


def load(folder: Path, **fields: object) -> RawData:
    spec = {"name": "table", "volumeClaim": "d", "path": "d.parquet", **fields}
    return Table().load(Dataset.model_validate(spec), folder)


@pytest.mark.parametrize(
    ("column", "cells", "matrix"),
    [
        ("label", [0, 1, -1, 1, 0, None], [[1, 0], [0, 1], [0, 0], [0, 1], [1, 0], [0, 0]]),
        ("labels", [[0], [1, 0], [], [1], [-1], None], [[1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [0, 0]]),
    ],
)
def test_numbers_of_class_labels_become_names(
    tmp_path: Path, column: str, cells: list[Any], matrix: list[list[int]]
) -> None:
    write(tmp_path, column, cells)
    data = load(tmp_path)
    assert data.label_names == ("bad", "good")
    assert data.train.labels.tolist() == matrix


@pytest.mark.parametrize(
    ("column", "cells", "number"),
    [("label", [0, 1, 7, 1, 0], 7), ("labels", [[0], [1], [0, 5], [1], [0]], 5), ("label", [0, 1, -2, 1, 0], -2)],
)
def test_a_number_without_a_name_makes_its_row_bad(tmp_path: Path, column: str, cells: list[Any], number: int) -> None:
    write(tmp_path, column, cells)
    place = f"{tmp_path}/d.parquet, row 3, column '{column}'"
    sentence = f"{place}: label index {number} is not within 0 to 1, nor -1 for no label"
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert caught.value.message == sentence
    assert load(tmp_path, onBadRow="skip").train.labels.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    blocks = list(iter_parquet(DataFile(tmp_path / "d.parquet"), [(column,)], 2))
    assert [str(row) for block in blocks for row in block.bad] == [sentence]
