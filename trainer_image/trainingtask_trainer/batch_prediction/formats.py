"""The formats of predictions: csv, jsonl and parquet, each written in parts that are joined in the end.

A prediction is the number of its row, from 1, and the labels with their probabilities, most probable first. In csv both are
JSON arrays, in jsonl the labels are those of ``predict --json``.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trainingtask_api.formatting import escape_formula
from trainingtask_trainer.artifacts.saved_model import Prediction

SUFFIXES = (".csv", ".jsonl", ".parquet")
_CSV_HEADER = b"row,labels,probabilities\n"


def write_part(file: Path, first_row: int, predictions: Sequence[Prediction]) -> None:
    """Write the predictions of consecutive rows in the format of the file's suffix; csv without its header."""
    rows = range(first_row, first_row + len(predictions))
    if file.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row, prediction in zip(rows, predictions, strict=True):
            lists = (list(prediction.labels), list(prediction.labels.values()))
            writer.writerow([row, *(escape_formula(json.dumps(values, ensure_ascii=False)) for values in lists)])
        file.write_text(text.getvalue(), encoding="utf-8")
    elif file.suffix == ".jsonl":
        objects = ({"row": row, "labels": item.list_labels()} for row, item in zip(rows, predictions, strict=True))
        file.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects), encoding="utf-8")
    else:
        import pyarrow.parquet  # noqa: PLC0415 - the other formats need none of it

        cells = [
            list(rows),
            [list(item.labels) for item in predictions],
            [list(item.labels.values()) for item in predictions],
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(cells, schema=_get_schema()), file)


def join_parts(parts: Iterable[Path], file: Path) -> None:
    """Write parts, in their order, as one file."""
    if file.suffix == ".parquet":
        import pyarrow.parquet  # noqa: PLC0415

        with pyarrow.parquet.ParquetWriter(file, _get_schema()) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))
        return
    with file.open("wb") as target:
        if file.suffix == ".csv":
            target.write(_CSV_HEADER)
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target)


def _get_schema() -> Any:
    import pyarrow  # noqa: PLC0415

    return pyarrow.schema(
        {
            "row": pyarrow.int64(),
            "labels": pyarrow.list_(pyarrow.string()),
            "probabilities": pyarrow.list_(pyarrow.float64()),
        }
    )
