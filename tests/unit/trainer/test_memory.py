import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainingtask_trainer import memory

GROUPS = Path("/sys/fs/cgroup")
LIMIT = 900 << 20
# Few weights and many activations, 32,768 tokens in a batch: together they need 2 GB, in micro-batches far less.
TRAIN = """
import sys, torch
from transformers import BertConfig, BertForSequenceClassification
from trainingtask_trainer import memory
from trainingtask_trainer.models.finetuning.activations import max_tokens
from trainingtask_trainer.models.finetuning.batching import micro_batches
torch.set_num_threads(1)
model = BertForSequenceClassification(
    BertConfig(vocab_size=1000, hidden_size=128, num_hidden_layers=4, num_attention_heads=2, intermediate_size=512)
)
optimiser = torch.optim.AdamW(model.parameters())
rows, lengths = range(512), [64] * 512
limit = max_tokens(model, 64) if sys.argv[1] == "guarded" else None
parts = micro_batches(rows, lengths, max_tokens=limit)
for part in parts:
    model(input_ids=torch.ones((len(part), 64), dtype=torch.long)).logits.sum().backward()
optimiser.step()
print(len(parts), memory.limit_bytes(), memory.peak_bytes())
"""


def test_peak_counts_what_was_held_for_a_moment() -> None:
    before, resident = memory.peak_bytes(), memory.resident_bytes()
    assert resident is not None
    held = bytearray(b"x") * (before - resident + (300 << 20))  # tests before this one may have held more than it does
    del held
    assert memory.peak_bytes() - before > 200 << 20
    resident = memory.resident_bytes()
    assert resident is not None
    assert resident < memory.peak_bytes() - (200 << 20)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "2147483648\n"}, 2147483648),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, 1073741824),
        ({"memory.max": "max\n", "own/memory.max": "4096\n", "own/group/memory.max": "8192\n"}, 4096),
    ],
)
def test_the_limit_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None
) -> None:
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("4:memory:/not/there\n0::/own/group\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    assert memory.limit_bytes(tmp_path / "cgroup") == limit


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group whose memory is limited; the processes in its `cgroup.procs` are killed above it."""
    version_2 = (GROUPS / "cgroup.controllers").exists()
    parent = GROUPS if version_2 else GROUPS / "memory"
    folder = parent / f"trainingtask-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(LIMIT))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    deadline = time.monotonic() + 10
    while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
        os.sched_yield()  # a process that was killed leaves its group a moment after its parent knows
    folder.rmdir()


def train(group: Path, how: str) -> subprocess.CompletedProcess[str]:
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(
        [sys.executable, "-c", TRAIN, how], preexec_fn=join, capture_output=True, text=True, check=False
    )


def test_a_batch_that_would_not_fit_is_cut_before_the_kernel_kills_the_process(group: Path) -> None:
    killed = train(group, "unguarded")
    assert killed.returncode == -9, killed.stderr
    guarded = train(group, "guarded")
    assert guarded.returncode == 0, guarded.stderr
    parts, limit, peak = map(int, guarded.stdout.split())
    assert limit == LIMIT
    assert parts > 1
    assert LIMIT * 0.5 < peak < LIMIT  # cut, but no finer than needed
