import mmap
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainingtask_trainer.runtime import memory

GROUPS = Path("/sys/fs/cgroup")
LIMIT = 900 << 20
# Few weights and many activations, 32,768 tokens in a batch: together they need 2 GB, in micro-batches far less. Each of
# two children joins the group; libraries are imported once, before there are threads.
TRAIN = """
import os, sys, torch
from transformers import BertConfig, BertForSequenceClassification
from trainingtask_trainer.runtime import memory
from trainingtask_trainer.models.transformers.memory_budget import plan_memory
from trainingtask_trainer.models.transformers.batch_planning import split_for_padding

def train(guarded):
    torch.set_num_threads(1)
    memory.disable_malloc_trim()
    model = BertForSequenceClassification(
        BertConfig(vocab_size=1000, hidden_size=128, num_hidden_layers=4, num_attention_heads=2, intermediate_size=512)
    )
    optimiser = torch.optim.AdamW(model.parameters())
    rows, lengths = range(512), [64] * 512
    parts = split_for_padding(rows, lengths, max_tokens=plan_memory(model, 64).max_tokens if guarded else None)
    for part in parts:
        model(input_ids=torch.ones((len(part), 64), dtype=torch.long)).logits.sum().backward()
    optimiser.step()
    print(len(parts), memory.get_limit_bytes(), memory.get_peak_bytes(), flush=True)

for guarded in (False, True):
    child = os.fork()
    if child == 0:
        with open(sys.argv[1], "w") as processes:
            processes.write(str(os.getpid()))
        train(guarded)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


# Many weights, 12 million. Each of several children joins the group, whose limit is the one that the last of them was
# refused with; the last but one trains, and the last one trains with twice as much.
TRAIN_WEIGHTS = """
import os, re, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.models.transformers.best_weights import BestWeights
from trainingtask_trainer.models.transformers.memory_budget import check_weights_fit, plan_memory
from trainingtask_trainer.runtime import memory

processes, limit_file, folder, limit = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
config = BertConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024)
with torch.device("meta"):
    shapes = {name: tensor.shape for name, tensor in BertForSequenceClassification(config).state_dict().items()}

def train():
    torch.set_num_threads(1)
    memory.disable_malloc_trim()
    try:
        check_weights_fit(folder, torch.device("cpu"))
        model = BertForSequenceClassification(config)
        plan = plan_memory(model, 128)
    except UserError as error:
        return f"refused {error.reason} {error.message}"
    best = BestWeights(folder if plan.is_best_on_disk else None)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    rows = min(8, plan.max_tokens // 128)
    for _ in range(2):
        model(input_ids=torch.ones((rows, 128), dtype=torch.long)).logits.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        best.keep(model)
    best.restore(model)
    return f"trained {plan.is_best_on_disk} {rows} {memory.get_peak_bytes()}"

def train_in_group(limit):
    Path(limit_file).write_text(str(limit))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        Path(processes).write_text(str(os.getpid()))
        os.write(writer, train().encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 10_000).decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(limit, status, answer, flush=True)
    return answer

save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
while (answer := train_in_group(limit)).startswith("refused"):
    limit = int(re.search(r"set resources.memory to '(\\d+)Mi' or more", answer)[1]) << 20
train_in_group(2 * limit)
"""


def test_peak_counts_what_was_held_for_a_moment() -> None:
    program = """
from trainingtask_trainer.runtime import memory
before = memory.get_peak_bytes()
held = bytearray(b"x") * (300 << 20)
del held
print(before, memory.get_peak_bytes(), memory.get_resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, peak, resident = map(int, done.stdout.split())
    assert peak - before > 200 << 20
    assert resident < peak - (200 << 20)


def test_pages_of_files_are_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(64 << 20))
    before = memory.get_resident_bytes()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert max(mapped[::4096]) == 0  # a byte of each page
        after = memory.get_resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before < 16 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep memory")
def test_what_is_freed_is_kept_for_what_comes_next() -> None:
    program = """
import resource
from trainingtask_trainer.runtime import memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"x" * (100 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages())
memory.disable_malloc_trim()
pages()
print(pages())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 10


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
    assert memory.get_limit_bytes(tmp_path / "cgroup") == limit


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


def test_a_batch_that_would_not_fit_is_split_before_the_kernel_kills(group: Path) -> None:
    command = [sys.executable, "-c", TRAIN, str(group / "cgroup.procs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    killed, guarded, ended = done.stdout.splitlines()
    assert (int(killed), int(ended)) == (-9, 0), done.stderr
    parts, limit, peak = map(int, guarded.split())
    assert limit == LIMIT
    assert parts > 1
    assert LIMIT * 0.5 < peak < LIMIT  # cut, but no finer than needed


def test_a_limit_below_the_need_is_refused_with_one_that_is_enough(group: Path, tmp_path: Path) -> None:
    limit_file = group / ("memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes")
    command = [
        sys.executable,
        "-c",
        TRAIN_WEIGHTS,
        *map(str, (group / "cgroup.procs", limit_file, tmp_path, 400 << 20)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *refusals, trained, trained_with_twice = [line.split(" ", 3) for line in done.stdout.splitlines()]
    assert 1 <= len(refusals) <= 2, done.stdout
    assert all(reason.startswith("InsufficientMemory ") for _, _, _, reason in refusals)
    limits = [int(limit) for limit, *_ in (*refusals, trained)]
    assert limits == sorted(set(limits))
    kept_on_disk, rows, peak = trained[3].split()
    assert kept_on_disk == "True"  # the least that is enough
    assert int(rows) >= 1
    assert limits[-1] * 0.5 < int(peak) < limits[-1]
    assert trained_with_twice[1:] == ["0", "trained", trained_with_twice[3]]
    assert trained_with_twice[3].startswith("False 8 ")
