import csv
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.cross_validated import CrossValidated
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.errors import UserError

CROSS_VALIDATED = Path(__file__).parents[4] / ".." / "shared" / "data" / "cross_validated"

QUESTIONS = [
    ("6", "NA", "2010-07-19T12:14:44Z", "5", "Naïve Bayes", "<p>Is <em>p</em> &lt; 0.05?</p>\n\n<p>Line two.</p>"),
    ("21", "59", "2010-07-19T12:24:36Z", "1", "Untagged", "<p>Nobody sorted this.</p>"),
    ("30", "7", "2010-07-19T12:39:08Z", "2", 'A "quote", a comma', "<pre><code>x &amp; y\n z</code></pre>"),
]  # fmt: skip
TAGS = [("6", "p-value"), ("6", "bayesian"), ("30", "r"), ("99", "of-no-question")]
ANSWERS = [
    ("7", "1", "2010-07-20", "30", "3", "<p>First.</p>"),
    ("8", "1", "2010-07-20", "30", "1", "<p>Second.</p>"),
    ("9", "1", "2010-07-20", "21", "1", "<p>To nothing.</p>"),
]
TABLES = {
    "Questions": (("Id", "OwnerUserId", "CreationDate", "Score", "Title", "Body"), QUESTIONS),
    "Tags": (("Id", "Tag"), TAGS),
    "Answers": (("Id", "OwnerUserId", "CreationDate", "ParentId", "Score", "Body"), ANSWERS),
}


def spec(path: str = ".", **fields: object) -> Dataset:
    return Dataset.model_validate({"name": "cross_validated", "volumeClaim": "data", "path": path, **fields})


def write_csv(folder: Path) -> None:
    for name, (columns, rows) in TABLES.items():
        with (folder / f"{name}.csv").open("w", encoding="latin-1", newline="") as file:
            csv.writer(file).writerows([columns, *rows])


def write_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for name, (columns, rows) in TABLES.items():
            types = ", ".join(f"{column} {'INTEGER' if column.endswith('Id') else 'TEXT'}" for column in columns)
            database.execute(f"CREATE TABLE {name} ({types})")
            database.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)


@pytest.mark.parametrize("path", [".", "database.sqlite"])
def test_questions_are_joined_with_their_tags(tmp_path: Path, path: str) -> None:
    write_csv(tmp_path) if path == "." else write_sqlite(tmp_path / path)
    data = CrossValidated().load(spec(path), tmp_path)
    assert data.label_names == ("bayesian", "p-value", "r")
    assert data.train.texts == ["Naïve Bayes\nIs p < 0.05? Line two.", 'A "quote", a comma\nx & y z']
    assert data.train.labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert (data.validation, data.test) == (None, None)


@pytest.mark.parametrize(
    ("body", "text"), [("\x0cA page.", "A page."), ("&#x8;Deleted.", "\x08Deleted."), ("&#xFFFE;", "\ufffe")]
)
def test_bodies_may_begin_with_control_characters(tmp_path: Path, body: str, text: str) -> None:
    write_csv(tmp_path)
    file = tmp_path / "Questions.csv"
    old = QUESTIONS[2][5]
    file.write_text(file.read_text(encoding="latin-1").replace(old, body), encoding="latin-1")
    assert CrossValidated().load(spec(), tmp_path).train.texts[1] == f'A "quote", a comma\n{text}'


@pytest.mark.parametrize("path", [".", "database.sqlite"])
def test_answers_follow_on_request(tmp_path: Path, path: str) -> None:
    write_csv(tmp_path) if path == "." else write_sqlite(tmp_path / path)
    data = CrossValidated().load(spec(path, includeAnswers=True), tmp_path)
    assert data.train.texts[1] == 'A "quote", a comma\nx & y z\nFirst.\nSecond.'


def test_the_sqlite_file_is_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "read only?"
    folder.mkdir()
    write_sqlite(folder / "db 100%.db")
    with closing(sqlite3.connect(folder / "db 100%.db")) as database:
        database.execute("PRAGMA journal_mode=wal")  # which wants files beside the database, even to read it
    before = sorted(folder.iterdir())
    assert len(CrossValidated().load(spec("db 100%.db"), folder).train) == 2
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("Questions", "Body", "Text", "Questions.csv: no column 'Body', only 'Id', 'OwnerUserId'"),
        ("Questions", "30,7", "6,7", "Questions.csv, row 7, column 'Id': question 6 is there twice"),
        ("Tags", "6,bayesian", "6, ", "Tags.csv, row 3, column 'Tag': ' ' is not a tag"),
        ("Tags", "6,bayesian", "6", "Tags.csv, row 3: 1 cells, and the header has 2 columns"),
        ("Tags", "6,", "7,", "Ids of Questions and of Tags have 1 tags in common, at least 2 are needed"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, old: str, new: str, sentence: str) -> None:
    write_csv(tmp_path)
    file = tmp_path / f"{name}.csv"
    content = file.read_text(encoding="latin-1")
    assert old in content
    file.write_text(content.replace(old, new), encoding="latin-1")
    with pytest.raises(UserError, match=sentence) as caught:
        CrossValidated().load(spec(), tmp_path)
    assert caught.value.reason == "InvalidData"


def test_missing_answers_say_what_is_there(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "Answers.csv").unlink()
    with pytest.raises(UserError, match=r"needs Answers.csv, or be the SQLite file; it holds Questions.csv, Tags.csv"):
        CrossValidated().load(spec(includeAnswers=True), tmp_path)


def test_a_file_that_is_not_the_sqlite_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("nonsense" * 100)
    with pytest.raises(UserError, match=r"x.db, table Tags: SQLite says 'file is not a database'"):
        CrossValidated().load(spec("x.db"), tmp_path)
    with closing(sqlite3.connect(tmp_path / "y.db")) as database, database:
        database.execute("CREATE TABLE other (id)")
    with pytest.raises(UserError, match=r"y.db, table Tags: SQLite says 'no such table: Tags'"):
        CrossValidated().load(spec("y.db"), tmp_path)


def test_real_questions() -> None:
    if not CROSS_VALIDATED.is_dir():
        pytest.skip(f"{CROSS_VALIDATED} is absent: no real questions on this machine")
    wanted = spec(CROSS_VALIDATED.name, topLabels=8)
    raw = CrossValidated().load(wanted, CROSS_VALIDATED.parent)
    assert (len(raw.train), len(raw.label_names)) == (2615, 859)
    assert any("Naïve" in text for text in raw.train.texts)
    assert not any("<p>" in text for text in raw.train.texts)
    data = prepare_data(raw, wanted)
    assert len(data.label_names) == 8
    shares = {name: split.labels.mean(axis=0) for name, split in data.get_splits().items()}
    assert shares["test"] == pytest.approx(shares["train"], abs=0.01)
