"""Registered names, classes that a task names itself, and what `list` says of them."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from trainingtask_trainer import registry
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.preprocessors.tfidf import Tfidf

PREPROCESSOR = """
class Whole:
    def __init__(self, spec, volumes): ...
    def fit(self, texts): ...
    def transform(self, texts): ...
    def arguments(self): ...

class Half:
    def fit(self, texts): ...

def function(): ...
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that is offered as the task's own code."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_code_folders", [])
    before = set(sys.modules)
    registry.add_code_folder(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_everything_that_is_offered_can_be_loaded() -> None:
    for kind in registry.KINDS:
        for name in registry.list_entry_points(kind):
            assert isinstance(registry.load(kind, name), type)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"^model\.name 'bart' is not offered by this image, which knows .*bert, .*xlnet"
    ):
        registry.check_name("models", "bart")


def test_a_name_of_two_packages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[trainingtask.models]\nbert = other:Bert\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"model\.name 'bert' is registered for several classes .* other:Bert, training"
    ):
        registry.check_name("models", "bert")


def test_a_class_is_taken_from_the_tasks_own_code(code: Path) -> None:
    (code / "mine.py").write_text(PREPROCESSOR)
    assert registry.load("preprocessors", "mine:Whole").__name__ == "Whole"


def test_a_class_is_taken_from_what_is_installed() -> None:
    assert registry.load("preprocessors", "trainingtask_trainer.preprocessors.tfidf:Tfidf") is Tfidf


def test_own_code_replaces_nothing_that_is_installed(code: Path) -> None:
    (code / "bisect.py").write_text(PREPROCESSOR)
    sys.modules.pop("bisect", None)
    with pytest.raises(UserError, match=r"bisect \(/.*/bisect\.py\) has no class Whole; it has none at all"):
        registry.load("preprocessors", "bisect:Whole")


MISTAKES = {
    "module": ("mein:Whole", "UnknownName", "there is no module mein; the task's own code has broken, .*mine, .*spec.code.configMap"),
    "submodule": ("mine.deep:Whole", "UnknownName", "there is no module mine.deep; "),
    "class": ("mine:Hole", "UnknownName", r"mine \(.*/mine\.py\) has no class Hole; it has Half, Whole$"),
    "function": ("mine:function", "UnknownName", "has no class function; "),
    "protocol": ("mine:Half", "InvalidCode", "lacks arguments, transform, which each of the preprocessors must have"),
    "import": ("needy:Whole", "InvalidCode", "needy imports no_such_library, which this image does not have"),
    "syntax": ("unclosed:Whole", "InvalidCode", r"cannot be imported: SyntaxError: .* \(unclosed\.py, line 1\)"),
    "error": ("broken:Whole", "InvalidCode", r"cannot be imported: ZeroDivisionError: .* \(broken\.py, line 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_own_code_is_told_before_anything_else_is_imported(code: Path, mistake: str) -> None:
    (code / "mine.py").write_text(PREPROCESSOR)
    (code / "needy.py").write_text("import no_such_library\n")
    (code / "unclosed.py").write_text("x = (\n")
    (code / "broken.py").write_text("\n1 / 0\n")
    name, reason, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=sentence) as refused:
        registry.check_name("preprocessors", name)
    assert refused.value.reason == reason
    assert refused.value.message.startswith(f"preprocessor.name '{name}'")


def test_an_image_that_lacks_what_it_offers_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("lost", "no_such_module:Lost", "trainingtask.models")
    monkeypatch.setattr(registry, "list_entry_points", lambda _: {"lost": point})
    registry.check_name("models", "lost")
    with pytest.raises(Fault, match=r"model\.name 'lost' \(no_such_module:Lost\) cannot be loaded: No module"):
        registry.load("models", "lost")


def test_summaries_come_from_the_source(code: Path) -> None:
    (code / "documented.py").write_text(
        'class Known:\n    """First line.\n\n    More.\n    """\nclass Quiet: ...\n1 / 0\n'
    )
    summaries = {
        value: registry.read_summary(EntryPoint("x", value, "trainingtask.models"))
        for value in ("documented:Known", "documented:Quiet", "documented:None", "no_such:X", "json.decoder.no:X", "math:X")
    }  # fmt: skip
    assert summaries.pop("documented:Known") == "First line."
    assert set(summaries.values()) == {""}


def test_list_says_what_each_name_is_and_imports_none_of_it() -> None:
    command = "import sys; from trainingtask_trainer.__main__ import main; main(['list'])"
    command += "; assert not {'numpy', 'torch', 'sklearn', 'trainingtask_trainer.datasets'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("go_emotions", "support_tickets", "table", "tfidf", "tokenizer", "bert", "logistic_regression"):
        [line] = (line for line in lines if line.split()[0] == name)
        assert line.endswith("."), "a name without a description"
