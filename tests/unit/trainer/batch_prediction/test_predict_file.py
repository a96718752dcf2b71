"""The command `predict` with a file: its formats, its parts, and how it goes on after a kill."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest

from support.object_store import clear_credentials, serve_bucket
from support.served_models import HeldModel
from trainingtask_api.exports import Format
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.batch_prediction import run
from trainingtask_trainer.batch_prediction.inputs import compute_code_digest, compute_digest
from trainingtask_trainer.models.formats import list_unread_files

TEXTS = ["a" * length for length in (60, 10, 0, 50, 99)]
LABELS = [["long"], ["short"], [], ["long", "short"], ["long"]]


def predict(model: HeldModel, file: Path, output: object, *more: str) -> int:
    return main(
        ["predict", str(model.folder), f"--code-dir={model.code}", f"--input={file}", f"--output={output}", *more]
    )


def write_csv(file: Path, texts: Sequence[str] = TEXTS) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("id", "text"), *enumerate(texts)])
    return file


def read_jsonl(file: Path) -> list[list[str]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(rows[0]["row"], rows[0]["row"] + len(rows)))
    return [[label["label"] for label in row["labels"]] for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".csv.gz"])
def test_each_format_of_the_input_is_read(model: HeldModel, tmp_path: Path, suffix: str) -> None:
    file = write_csv(tmp_path / "in.csv")
    if suffix == ".jsonl":
        file = tmp_path / "in.jsonl"
        file.write_text("".join(json.dumps({"text": text or None}) + "\n" for text in TEXTS))
    elif suffix == ".parquet":
        file = tmp_path / "in.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), file)
    elif suffix == ".csv.gz":
        subprocess.run(["gzip", str(file)], check=True)
        file = tmp_path / "in.csv.gz"
    assert predict(model, file, tmp_path / "out.jsonl") == 0
    assert read_jsonl(tmp_path / "out.jsonl") == LABELS
    assert not (tmp_path / "out.jsonl.parts").exists()
    assert model.batches == [2, 1, 1]  # the third row has no text


def test_each_format_of_the_output_has_the_same_rows(model: HeldModel, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "in.csv")
    for suffix in ("csv", "parquet"):
        assert predict(model, file, tmp_path / f"out.{suffix}") == 0
    with (tmp_path / "out.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["labels"] for row in table] == [json.loads(row["labels"]) for row in rows] == LABELS
    assert [row["row"] for row in table] == [int(row["row"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [row["probabilities"] for row in table] == [json.loads(row["probabilities"]) for row in rows]
    assert table[0]["probabilities"] == [0.6]


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ('text\n""\naa\n\n""\nbb\n""\n', [[], ["short"], [], ["short"], []]),
        ("id,text\n,\n1,aa\n,\n\n2,bb\n,\n", [[], ["short"], [], ["short"], []]),
    ],
    ids=["one column", "two columns"],
)
def test_a_row_of_empty_cells_is_a_row(model: HeldModel, tmp_path: Path, content: str, labels: list[list[str]]) -> None:
    (tmp_path / "in.csv").write_text(content)
    assert predict(model, tmp_path / "in.csv", tmp_path / "out.jsonl") == 0
    assert read_jsonl(tmp_path / "out.jsonl") == labels


@pytest.mark.parametrize(
    ("cell", "what"),
    [(5, "a number"), (1.5, "a number"), (True, "a boolean"), (["a"], "a list"), ({"a": 1}, "an object")],
    ids=str,
)
def test_a_cell_that_is_no_text_is_refused(
    model: HeldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: object, what: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [None, None, cell]}), tmp_path / "in.parquet")
    lines = ['{"text": "a"}', '{"text": NaN}', json.dumps({"text": cell})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for name in ("in.parquet", "in.jsonl"):
        assert predict(model, tmp_path / name, tmp_path / "out.jsonl") == 64
        said = capsys.readouterr().err
        assert said == f"{tmp_path / name}, row 3, column 'text' is {what}: give text\n"
    assert not list(tmp_path.glob("out*"))


def test_a_damaged_page_of_parquet_is_told(
    model: HeldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), file, compression="snappy")
    content = file.read_bytes()
    file.write_bytes(content[:40] + bytes(40) + content[80:])  # its end, which is read first, is whole
    assert predict(model, file, tmp_path / "out.jsonl") == 64
    assert f"{file} is not a parquet file that can be read: " in capsys.readouterr().err


def test_bytes_are_no_text_and_nan_is_none(
    model: HeldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a"]}), tmp_path / "in.parquet")
    assert predict(model, tmp_path / "in.parquet", tmp_path / "out.jsonl") == 64
    assert "row 1, column 'text' is of type bytes: give text" in capsys.readouterr().err
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": NaN}\n{"text": null}\n{}\n')
    assert predict(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    assert read_jsonl(tmp_path / "out.jsonl") == [["short"], [], [], []]


def test_columns_are_those_of_the_model_or_of_the_option(model: HeldModel, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"subject,body,short\n{'a' * 30},{'b' * 30},x\n")
    manifest = json.loads((model.folder / "trainingtask.json").read_text()) | {"text_columns": ["subject", "body"]}
    (model.folder / "trainingtask.json").write_text(json.dumps(manifest))
    assert predict(model, tmp_path / "in.csv", tmp_path / "both.jsonl") == 0
    assert predict(model, tmp_path / "in.csv", tmp_path / "option.jsonl", "--text-column=short") == 0
    (model.folder / "trainingtask.json").write_text(json.dumps(manifest | {"text_columns": [], "text_column": "short"}))
    run._load_model.cache_clear()
    assert predict(model, tmp_path / "in.csv", tmp_path / "one.jsonl") == 0
    files = [read_jsonl(tmp_path / f"{name}.jsonl") for name in ("both", "option", "one")]
    assert files == [[["long"]], [["short"]], [["short"]]]


def test_shards_in_their_order_are_the_whole(model: HeldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_csv(tmp_path / "in.csv")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert predict(model, file, tmp_path / "out.jsonl", "--shard=0/2") == 0
    assert predict(model, file, tmp_path / "out.jsonl", "--shard=2") == 0
    shards = [tmp_path / f"out-0000{index}-of-00002.jsonl" for index in range(2)]
    assert [len(read_jsonl(shard)) for shard in shards] == [2, 3]
    assert [labels for shard in shards for labels in read_jsonl(shard)] == LABELS


def test_a_killed_prediction_goes_on_with_its_parts(
    model: HeldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write_csv(tmp_path / "in.csv"), tmp_path / "out.jsonl"
    program = "import sys\nfrom trainingtask_trainer import __main__, batch_prediction\n"
    program += "from trainingtask_trainer.batch_prediction import run\nrun._MAX_PART_ROWS = 2\n"
    program += "run.get_cpu_limit = lambda: 1\n__main__.main(sys.argv[1:])\n"
    arguments = ["predict", str(model.folder), f"--code-dir={model.code}", f"--input={file}", f"--output={output}"]
    model.close_gate()
    with subprocess.Popen([sys.executable, "-c", program, *arguments]) as process:
        with model.hold_batch():
            model.close_gate()  # the second batch waits as well
        with model.hold_batch():
            process.kill()
    assert process.wait() == -signal.SIGKILL
    assert sorted(part.name for part in (tmp_path / "out.jsonl.parts").iterdir()) == ["part-000000.jsonl", "run.json"]
    assert not output.exists()

    assert predict(model, file, output) == 0
    assert "2 of 5 rows are there already" in capsys.readouterr().err
    assert read_jsonl(output) == LABELS
    assert model.batches == [2, 1, 1]


@pytest.mark.parametrize("other", ["input", "code", "release"])
def test_parts_of_another_input_code_or_release_are_not_used(
    model: HeldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    file, output = write_csv(tmp_path / "in.csv", ["a", "fail", "b"]), tmp_path / "out.csv"
    assert predict(model, file, output) == 64
    assert "RuntimeError: as asked" in capsys.readouterr().err
    if other == "input":
        write_csv(file)
    elif other == "code":
        (model.code / "helper.py").touch()
    else:
        monkeypatch.setattr(run, "version", lambda name: f"other {name}")
    assert predict(model, file, output) == 64
    said = capsys.readouterr().err
    assert "out.csv.parts beside --output holds parts of another input, model, code or release" in said


def test_code_is_the_same_in_another_mount_of_its_configmap(tmp_path: Path) -> None:
    digests = set()
    for name in ("..2026_01_01", "..2026_01_02"):
        mount = tmp_path / name.strip(".")
        (mount / name).mkdir(parents=True)
        (mount / name / "lengths.py").write_text("x = 1")
        (mount / "..data").symlink_to(name)
        (mount / "lengths.py").symlink_to("..data/lengths.py")
        digests.add(compute_code_digest(mount))
    (mount / "lengths.py").resolve().write_text("x = 2")
    assert len(digests) == 1
    assert compute_code_digest(mount) not in digests


@pytest.mark.parametrize(
    ("folder", "output"),
    [("model", "model/out.csv"), ("model/", "link/a/out.csv"), ("s3://m/tickets/", "s3://m/tickets/o.csv")],
)
def test_an_output_in_the_models_folder_is_refused(
    model: HeldModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    output: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("model")
    write_csv(tmp_path / "in.csv")
    assert main(["predict", folder, f"--code-dir={model.code}", "--input=in.csv", f"--output={output}"]) == 64
    assert capsys.readouterr().err.startswith(f"--output '{output}' is in the model's folder, whose files are to stay")
    assert [file.name for file in model.folder.iterdir()] == ["trainingtask.json"]


def test_several_processes_write_the_same_file(
    model: HeldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "get_cpu_limit", lambda: 2)
    file = write_csv(tmp_path / "in.csv")
    assert predict(model, file, tmp_path / "out.jsonl") == 0
    assert read_jsonl(tmp_path / "out.jsonl") == LABELS
    write_csv(file, ["a", "b", "fail", "c"])
    assert predict(model, file, tmp_path / "failed.jsonl") == 64  # the error of a worker is told as one of this process
    assert "RuntimeError: as asked" in capsys.readouterr().err


def test_a_process_that_is_killed_is_told(
    model: HeldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "get_cpu_limit", lambda: 2)
    file = write_csv(tmp_path / "in.csv", ["a", "b", "die", "c"])
    assert predict(model, file, tmp_path / "out.jsonl") == 1
    assert "a process that predicts was killed, perhaps because memory was short: run" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl.parts" / "run.json").is_file()


def test_input_and_output_in_an_object_store(
    model: HeldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_credentials(monkeypatch)
    with serve_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        bucket.put({"in/rows.csv": write_csv(tmp_path / "in.csv").read_bytes()})
        command = ["predict", str(model.folder), f"--code-dir={model.code}", f"--input={bucket.uri}/in/rows.csv"]
        command.append(f"--output={bucket.uri}/out/labels.jsonl")
        assert main(command) == 0
        assert [name for name in bucket.read() if name.startswith("out/")] == ["out/labels.jsonl"]
        (tmp_path / "labels.jsonl").write_bytes(bucket.read()["out/labels.jsonl"])
        assert main(command) == 64
    assert read_jsonl(tmp_path / "labels.jsonl") == LABELS
    assert "--output 'labels.jsonl' exists already: remove it, or name another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--input=in.csv"], "predict reads a file with both --input and --output, and no texts beside it"),
        (
            ["--input=in.csv", "--output=out.txt"],
            "--output 'out.txt' ends in '.txt': name a file of .csv, .jsonl, .parquet",
        ),
        (["--input=in.csv", "--output=ftp://h/o.csv"], "--output 'ftp://h/o.csv' is no place for a file"),
        (
            ["--input=in.csv", "--output=in.csv/a/out.csv"],
            "in.csv/a/out.csv' cannot be written (Not a directory): name a",
        ),
        (["--input=in.csv", f"--output={'a' * 250}.csv"], "a.csv' cannot be written (File name too long): name a file"),
        (["--input=none.csv", "--output=out.csv"], "--input 'none.csv' is not a file: name a single one"),
        (["--input=ftp://h/i.csv", "--output=out.csv"], "--input 'ftp://h/i.csv' is no place of a file: name a path"),
        (["--input=bad.csv", "--output=out.csv"], "bad.csv, row 3: 1 cells, and the header has 2 columns"),
        (["--input=in.csv", "--output=out.csv", "--text-column=x"], "in.csv: no column 'x', only 'id', 'text'"),
        (["--input=none.jsonl", "--output=out.csv"], "none.jsonl has no rows: nothing can be predicted"),
        (["--input=other.jsonl", "--output=out.csv"], "other.jsonl: no column 'text', only 'body'"),
        (["--input=x.xlsx", "--output=out.csv"], "x.xlsx ends in '.xlsx', which cannot be read piece by piece"),
        (
            ["--input=in.csv", "--output=out.csv", "--shard=2/2"],
            "--shard '2/2' is none: name I/N with I from 0 to N - 1",
        ),
        (["--input=in.csv", "--output=out.csv", "--shard="], "--shard '' is none: name I/N with I from 0 to N - 1"),
        (["--shard=0/2", "a text"], "--shard and --text-column are for a file alone"),
        (["--text-column=text", "a text"], "--shard and --text-column are for a file alone"),
        (["--input=in.csv", "--output=out.csv", "--shard=2"], "--shard '2' is none: name I/N with I from 0 to N - 1"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_a_sentence(
    model: HeldModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    write_csv(tmp_path / "in.csv")
    (tmp_path / "bad.csv").write_text("id,text\n1,a\n2\n")
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "other.jsonl").write_text('{"body": "a"}\n')
    (tmp_path / "x.xlsx").write_text("")
    assert main(["predict", str(model.folder), f"--code-dir={model.code}", *arguments]) == 64
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("kind", "unread"),
    [
        (Format.ONNX_INT8, {"model.onnx", "model.safetensors"}),
        (Format.SAFETENSORS, {"model.onnx", "model.int8.onnx"}),
        (Format.SKOPS, {"model.onnx", "model.int8.onnx"}),  # its encoder's weights are safetensors
        (None, set()),  # an extension may read any of them
    ],
)
def test_a_model_is_the_same_with_other_weights_in_formats_not_read(
    tmp_path: Path, kind: Format | None, unread: set[str]
) -> None:
    names = ("trainingtask.json", "tokenizer.json", "model.onnx", "model.int8.onnx", "model.safetensors")
    for name in names:
        (tmp_path / name).touch()
    before = compute_digest(tmp_path, without=list_unread_files(tmp_path, kind))
    for name in names:
        (tmp_path / name).write_text("other")
        changed = compute_digest(tmp_path, without=list_unread_files(tmp_path, kind)) != before
        assert changed == (name not in unread), name
        (tmp_path / name).write_text("")
