"""Files as other tools write them, and what is read of them."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import specs
from trainingtask_api.dataset import Dataset
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.datasets.base import RawData
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.sources import delimited as delimited_module
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.delimited import read_delimited
from trainingtask_trainer.volumes import Volumes

ROWS = [("one, two", "a;b"), ('say "three"', "b"), ("vier für fünf", ""), ("five", "a")]
MATRIX = [[1, 1], [0, 1], [0, 0], [1, 0]]
TEXTS = [text for text, _ in ROWS]
COLUMNS = {"delimiter": ";"}


def load(root: Path, path: str, **fields: object) -> RawData:
    return Table().load(Dataset.model_validate({"name": "table", "volumeClaim": "d", "path": path, **fields}), root)


def delimited(separator: str = ",", header: tuple[str, str] = ("text", "labels")) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([header, *ROWS])
    return text.getvalue()


def objects() -> list[dict[str, str]]:
    return [{"text": text, "labels": labels} for text, labels in ROWS]


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def archive(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, text in members.items():
            written.writestr(name.replace("__", "."), text)
    return file.getvalue()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(objects()), sink)
    return sink.getvalue().to_pybytes()


def arrow(new: Callable[..., object]) -> bytes:
    table, sink = pa.Table.from_pylist(objects()), pa.BufferOutputStream()
    with new(sink, table.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def spreadsheet(**sheets: list[tuple[object, ...]]) -> bytes:
    """Return an xlsx file of these sheets, as small as readers accept it."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006/relationships"

    def cell(value: object) -> str:
        if value == "":
            return "<c/>"
        return f"<c><v>{value}</v></c>" if isinstance(value, int) else f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    parts = {
        "_rels/.rels": f'<Relationships xmlns="{packages}"><Relationship Id="a" Type="{documents}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{documents}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{n}" r:id="s{n}"/>' for n, name in enumerate(sheets, 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packages}">'
        + "".join(
            f'<Relationship Id="s{n}" Type="{documents}/worksheet" Target="worksheets/{n}.xml"/>'
            for n in range(1, len(sheets) + 1)
        )
        + "</Relationships>",
    }
    for number, rows in enumerate(sheets.values(), 1):
        lines = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        parts[f"xl/worksheets/{number}.xml"] = f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData></worksheet>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, text in parts.items():
            written.writestr(name, text)
    return file.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    "comma": ("d.csv", delimited().encode()),
    "semicolon": ("d.csv", delimited(";").encode()),
    "tab in csv": ("d.csv", delimited("\t").encode()),
    "pipe": ("d.csv", delimited("|").encode()),
    "quotes in tsv": ("d.tsv", delimited("\t").encode()),
    "no quotes in tsv": ("d.tsv", "".join(f"{text}\t{labels}\n" for text, labels in [("text", "labels"), *ROWS]).encode()),
    "tab ending": ("d.tab", delimited("\t").encode()),
    "UTF-8 with a mark": ("d.csv", b"\xef\xbb\xbf" + delimited().encode()),
    "UTF-16": ("d.csv", delimited().encode("utf-16")),
    "UTF-16 without a mark": ("d.csv", delimited().encode("utf-16-be")),
    "cp1252": ("d.csv", delimited().encode("cp1252")),
    "case and blanks in the header": ("d.csv", delimited(header=(" Text", "LABELS ")).encode()),
    "upper case ending": ("D.CSV", delimited().encode()),
    "JSON lines": ("d.jsonl", "".join(json.dumps(row) + "\n" for row in objects()).encode()),
    "JSON lines in UTF-16": ("d.ndjson", "".join(json.dumps(row) + "\n" for row in objects()).encode("utf-16")),
    "a JSON array": ("d.json", json.dumps(objects(), indent=1).encode()),
    "gzip": ("d.csv.gz", gzip.compress(delimited().encode())),
    "zstandard": ("d.jsonl.zst", zst("".join(json.dumps(row) + "\n" for row in objects()).encode())),
    "csv in zstandard": ("d.csv.zst", zst(delimited().encode())),
    "tsv in zstandard": ("d.tsv.zst", zst(delimited("\t").encode())),
    "zip": ("d.zip", archive(data__csv=delimited())),
    "zip with what macOS adds": ("d.zip", archive(data__csv=delimited(), **{"__MACOSX/._data__csv": "x"})),
    "parquet": ("d.parquet", parquet()),
    "gzipped parquet": ("d.parquet.gz", gzip.compress(parquet())),
    "an object in each line of .json": ("d.json", "".join(json.dumps(row) + "\n" for row in objects()).encode()),
    "blank rows at the end": ("d.csv", delimited().encode() + b",\n,\n"),
    "a spreadsheet": ("d.xlsx", spreadsheet(Data=[("text", "labels"), *ROWS])),
    "an arrow file": ("d.arrow", arrow(pa.ipc.new_file)),
    "an arrow stream": ("d.arrow", arrow(pa.ipc.new_stream)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_bytes(content)
    data = load(tmp_path, name, columns=COLUMNS)
    assert (data.label_names, data.train.texts) == (("a", "b"), TEXTS)
    assert data.train.labels.tolist() == MATRIX


SPLITS = {
    "names of every kind": (["Training.csv", "val.csv", "eval.csv"], (4, 4, 4)),
    "valid": (["train.csv", "valid.csv"], (4, 4, None)),
    "the hub's parts": (
        ["train-00000-of-00002.csv", "train-00001-of-00002.csv", "test-00000-of-00001.csv"],
        (8, None, 4),
    ),
    "Spark's folder": (["part-00000-1a2b-c000.csv", "part-00001-1a2b-c000.csv", "_SUCCESS"], (8, None, None)),
    "numbers after a split's name": (["train_1.csv", "train_2.csv", "val.csv"], (8, 4, None)),
    "names with a hash": (["data/train-00000-of-00001-8a1b2c3d4e5f6789.csv"], (4, None, None)),
    "a file of any name in a split's folder": (["train/tickets.csv", "test/tickets.csv"], (4, None, 4)),
    "what datasets saves": (["data-00000-of-00001.csv", "state.json", "dataset_info.json"], (4, None, None)),
    "a folder per split": (["train/part-0.csv", "train/part-1.csv", "test/0000.csv"], (8, None, 4)),
    "one file of any name": (["tickets.csv", "README.md"], (4, None, None)),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_splits_are_found_by_the_names_of_files(tmp_path: Path, kind: str) -> None:
    names, lengths = SPLITS[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(delimited() if name.endswith(".csv") else "")
    data = load(tmp_path, ".", columns=COLUMNS)
    assert tuple(split and len(split) for split in (data.train, data.validation, data.test)) == lengths
    assert data.warnings == ()


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("train.csv", "labels.json", "old-train.csv", "notes.txt"):
        (tmp_path / name).write_text(delimited())
    assert load(tmp_path, ".", columns=COLUMNS).warnings == (
        f"files of {tmp_path} that were not read: labels.json, notes.txt, old-train.csv",
    )


def test_an_encoding_other_than_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(delimited().encode("cp1252"))
    assert load(tmp_path, "d.csv", columns=COLUMNS).warnings == (f"{tmp_path}/d.csv was read as cp1252",)
    (tmp_path / "d.csv").write_bytes(delimited().encode("cp1250"))
    assert load(tmp_path, "d.csv", columns=COLUMNS, format={"encoding": "cp1250"}).train.texts == TEXTS


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
@pytest.mark.parametrize("kind", ["comma", "a JSON array", "JSON lines"])
def test_a_file_in_another_encoding_than_named_is_refused(tmp_path: Path, kind: str, encoding: str) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_bytes(content.replace(b"\\u00fc", "ü".encode()))
    with pytest.raises(UserError, match=rf"{name} is not {encoding} text: "):
        load(tmp_path, name, columns=COLUMNS, format={"encoding": encoding})


def test_only_the_wanted_columns_are_read(tmp_path: Path) -> None:
    years = pa.array([2**55] * 4, pa.timestamp("us"))  # no date that Python knows
    pq.write_table(pa.Table.from_pylist(objects()).append_column("created", years), tmp_path / "d.parquet")
    assert load(tmp_path, "d.parquet", columns=COLUMNS).train.texts == TEXTS


def test_a_spreadsheet_has_sheets_numbers_and_blank_rows(tmp_path: Path) -> None:
    rows = [("labels", "text"), (3, "x"), (), ("", "y"), (7, "z")]
    (tmp_path / "d.xlsx").write_bytes(spreadsheet(Notes=[("a",)], Data=[*rows, *rows[1:]]))
    data = load(tmp_path, "d.xlsx", format={"sheet": "Data"})
    assert (data.label_names, data.train.texts) == (("3", "7"), ["x", "y", "z", "x", "y", "z"])
    assert data.train.labels.tolist() == [[1, 0], [0, 0], [0, 1]] * 2
    with pytest.raises(UserError, match="has no sheet 'data', only 'Notes', 'Data'"):
        load(tmp_path, "d.xlsx", format={"sheet": "data"})
    (tmp_path / "d.xlsx").write_bytes(spreadsheet(Data=[("text", "labels"), *ROWS], Notes=[("a",)]))
    assert load(tmp_path, "d.xlsx", columns=COLUMNS).warnings == (
        f"{tmp_path}/d.xlsx: sheet 'Data' was read, and not 'Notes'",
    )


def test_several_text_columns_become_one_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("subject,body,labels\nA,b,x\n,c,y\nD,,x\nE,f,y\n")
    assert load(tmp_path, "d.csv", columns={"texts": ["subject", "body"]}).train.texts == ["A\nb", "c", "D", "E\nf"]


def test_a_stray_quote_in_tsv_is_text(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text('text\tlabels\n"Hi team\ta\nsay "x"\tb\n"done"\ta\nlast"\tb\n')
    assert load(tmp_path, "d.tsv").train.texts == ['"Hi team', 'say "x"', '"done"', 'last"']


BAD = {
    "a quote that never ends": ("d.csv", b'text,labels\nx,a\n"y,b\nz,a\n', "d.csv, row 3: a quote that opens here closes nowhere"),
    "a quote within a cell": ("d.csv", b'text,labels\nx,a\n"y" z,b\n', "d.csv, row 3: a quote closes before the cell ends"),
    "two columns of a name": ("d.csv", b"text,labels,Labels \nx,a,b\n", ""),
    "a column that is not there": ("d.csv", b"Text;tags\nx;a\n", "d.csv: no column 'labels', only 'Text', 'tags'"),
    "columns that differ in case alone": ("d.csv", b"TEXT,Text,labels\nx,y,a\n", "d.csv: 2 columns are called 'text'"),
    "Central European bytes": ("d.csv", "text,labels\nzażółć,a\nx,b\n".encode("cp1250"), "its encoding cannot be told"),
    "Cyrillic bytes": ("d.csv", b"text,labels\n\xef\xf0\xe8\xe2\xe5\xf2,a\nx,b\n", "its encoding cannot be told"),
    "a picture": ("d.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)), "it is not a text file"),
    "damaged gzip": ("d.csv.gz", gzip.compress(delimited().encode())[:-20], "d.csv.gz is damaged"),
    "damaged zstandard": ("d.csv.zst", b"nonsense" * 20, "d.csv.zst is damaged"),
    "damaged zip": ("d.zip", b"nonsense", "d.zip is not a zip archive"),
    "a JSON object": ("d.json", b'{"text": ["x"]}', "holds no JSON array of objects, but an object with the keys 'text'"),
    "Label Studio's full export": ("d.json", b'[{"id": 1, "data": {}, "annotations": []}]', "is nested: export JSON-MIN or CSV"),
    "half a character": ("d.json", b'[{"text": "x \\ud83d", "labels": "a"}]', "d.json, row 1: not Unicode text"),
    "a number that is too long": ("d.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "d.jsonl, row 1: not JSON"),
    "brackets without end": ("d.jsonl", b'{"text": ' + b"[" * 100_000 + b"}", "d.jsonl, row 1: not JSON"),
    "two label columns": ("d.csv", b"text,label,labels\nx,a,b\n", "has the columns 'labels', 'label': name the one to read"),
    "an empty file": ("d.csv", b"", "d.csv is empty"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    name, content, sentence = BAD[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, columns=COLUMNS)
    assert sentence in caught.value.message


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    for part in (0, 2):
        (tmp_path / f"train-{part:05}-of-00003.csv").write_text(delimited())
    with pytest.raises(UserError, match=r"train split: part 1 of 3 is missing"):
        load(tmp_path, ".")


def test_all_bad_rows_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    good = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(20))
    (tmp_path / "d.csv").write_text("text,labels\n" + good + "only text\n" * 3 + ",a\n" * 9)
    with pytest.raises(UserError) as caught:
        load(tmp_path, "d.csv")
    assert caught.value.message.startswith("12 of 32 rows cannot be read: ")
    assert (
        f"{tmp_path}/d.csv, row 22: 1 cells, and the header has 2 columns ('text', 'labels'); " in caught.value.message
    )
    assert f"{tmp_path}/d.csv, row 31, column 'text': '' is not a text; and 2 more." in caught.value.message
    data = load(tmp_path, "d.csv", onBadRow="skip")
    assert len(data.train) == 20
    assert data.warnings[0].startswith("12 of 32 rows cannot be read and were skipped: ")


def test_rows_that_a_stray_quote_swallows_are_never_skipped(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(100))
    for end in ("", 'he said "no",a\n'):
        (tmp_path / "d.csv").write_text(f'text,labels\nx,a\n"y,b\n{rows}{end}')
        with pytest.raises(
            UserError, match=r"d.csv, row 3: a quote that opens here closes nowhere, or within a cell in row"
        ):
            load(tmp_path, "d.csv", onBadRow="skip")


@pytest.mark.parametrize("header", ["text,labels", "Text,Label"])
def test_a_header_that_is_repeated_is_no_row(tmp_path: Path, header: str) -> None:
    (tmp_path / "d.csv").write_text(f"{header}\nx,a\ny,b\n{header}\nz,a\nw,b\n")
    with pytest.raises(UserError, match=r"d.csv, row 4: repeats the header"):
        load(tmp_path, "d.csv")
    assert load(tmp_path, "d.csv", onBadRow="skip").train.texts == ["x", "y", "z", "w"]


def test_an_empty_part_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "part-00000.csv").write_text("")
    (tmp_path / "part-00001.csv").write_text(delimited())
    assert load(tmp_path, ".", columns=COLUMNS).train.texts == TEXTS


def test_quoted_cells_of_several_lines_are_read_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text('text\tlabels\n"two\nlines"\ta\n"tab\there"\tb\n"say ""x"""\t"a;b"\n')
    assert load(tmp_path, "d.tsv", columns=COLUMNS).train.texts == ["two\nlines", "tab\there", 'say "x"']


def test_labels_that_look_like_missing_values_are_told(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,labels\nx,a\ny,nan\nz,a\nw,nan\n")
    assert load(tmp_path, "d.csv").warnings == (
        "labels 'nan' look like missing values: leave the cells empty if they are",
    )


def test_line_numbers_count_the_lines_of_cells(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('text,labels\n"two\nlines",a\n\nx\ny,b\n"three\r\nlines\nhere",a\n,b\n')
    with pytest.raises(UserError) as caught:
        load(tmp_path, "d.csv")
    assert "row 5: 1 cells" in caught.value.message
    assert "row 10, column 'text'" in caught.value.message


def test_labels_unseen_in_training_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,labels\nx,a\ny,b\nz,a\nw,b\n")
    (tmp_path / "test.csv").write_text('text,labels\nx,"a,zebra"\ny,zebra\nz,b\n')
    data = load(tmp_path, ".")
    assert data.test is not None
    assert data.test.labels.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert data.warnings == (
        "2 rows of the test split carry 1 labels that no training row has ('zebra'): these labels are left out of it",
    )


def test_hundreds_of_notes_fit_into_the_results(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    rows = "text,labels\n" + "x,a\ny,b\ncr\xe8me,a\n" * 3 + "only text\n" * 30
    for part in range(100):
        (folder / f"part-{part:05}.csv").write_text(rows, encoding="cp1252")
    task = {"dataset": {"name": "table", "volumeClaim": "d", "path": folder.name, "onBadRow": "skip"}}
    manifest = specs.task("notes", {**task, "model": {"name": "logistic_regression"}})
    results = train(TrainingTask.model_validate(manifest), Volumes(tmp_path, tmp_path, tmp_path), Reporter([]))
    assert "and 97 more files" in results.warnings[0]
    assert results.warnings[1].startswith("3000 of 3900 rows cannot be read and were skipped: ")
    assert results.warnings[1].endswith("...")


CELL = st.text(alphabet="ab\",;\n\r\t\x00 é\\'", max_size=6)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=4),
    is_written=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", ""]),
    ending=st.sampled_from(["csv", "tsv"]),
)
def test_pyarrow_reads_what_pythons_csv_module_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[list[str]], is_written: bool, end: str, ending: str
) -> None:
    """Rows as a csv writer quotes them, and the same characters in no order at all."""
    separator = "," if ending == "csv" else "\t"
    text = io.StringIO(newline="")
    text.write(f"a{separator}b\n")
    if is_written:
        csv.writer(text, delimiter=separator, lineterminator=end or "\n").writerows(rows)
    else:
        text.write((end or "\n").join(separator.join(row) for row in rows) + end)
    path = tmp_path / f"d.{ending}"
    path.write_bytes(text.getvalue().encode())
    wanted = [("a",), ("b",)]

    def read() -> object:
        try:
            found = read_delimited(DataFile(path), wanted, separator, None)
        except UserError as error:
            return error.message
        return found.cells, list(found.numbers), found.bad

    fast = read()
    with monkeypatch.context() as patch:
        patch.setattr(delimited_module, "read_plain_csv", lambda *_, **__: None)
        assert read() == fast
