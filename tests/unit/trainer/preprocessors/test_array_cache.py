import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainingtask_trainer.preprocessors import array_cache
from trainingtask_trainer.preprocessors.array_cache import Arrays, compute_key, load_or_compute

NUMBERS = np.arange(1000, dtype=np.int32)


class Computing:
    """Counts how often it had to."""

    def __init__(self, numbers: Arrays | None = None) -> None:
        self.arrays = numbers or {"ids": NUMBERS, "ends": NUMBERS.astype(np.int64)}
        self.times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return self.arrays


def entry(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_computed_once_and_read_as_it_was(tmp_path: Path) -> None:
    compute = Computing()
    load_or_compute(tmp_path / "cache", "a", ("ids",), compute)
    again = load_or_compute(tmp_path / "cache", "a", ("ids",), compute)
    assert compute.times == 1
    assert again.keys() == compute.arrays.keys()
    for name, array in compute.arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype
    load_or_compute(tmp_path / "cache", "b", ("ids",), compute)
    assert compute.times == 2


@pytest.mark.parametrize("damage", ["shortened", "flipped", "empty", "garbage"])
def test_a_damaged_entry_is_computed_anew_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    compute = Computing()
    load_or_compute(tmp_path, "a", ("ids",), compute)
    content = entry(tmp_path).read_bytes()
    middle = len(content) // 2
    damaged = {
        "shortened": content[:-7],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "garbage": os.urandom(500),
    }
    entry(tmp_path).write_bytes(damaged[damage])
    np.testing.assert_array_equal(load_or_compute(tmp_path, "a", ("ids",), compute)["ids"], NUMBERS)
    assert "is damaged and computed anew" in caplog.text
    caplog.clear()
    load_or_compute(tmp_path, "a", ("ids",), compute)
    assert compute.times == 2
    assert not caplog.records


def test_the_least_recently_used_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("old", "older", "oldest")):
        load_or_compute(tmp_path, name, ("ids",), Computing())
        os.utime(tmp_path / f"{name}.npz", (1000 - age, 1000 - age))
    size = (tmp_path / "old.npz").stat().st_size
    load_or_compute(tmp_path, "oldest", ("ids",), Computing())  # used: now the youngest
    monkeypatch.setattr(array_cache, "MAX_CACHE_BYTES", 3 * size)
    load_or_compute(tmp_path, "new", ("ids",), Computing())
    assert {path.stem for path in tmp_path.iterdir()} == {"old", "oldest", "new"}


def test_a_folder_in_the_cache_is_left_and_the_oldest_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lost+found").mkdir()
    load_or_compute(tmp_path, "old", ("ids",), Computing())
    for age, name in enumerate(("old.npz", "lost+found")):
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(array_cache, "MAX_CACHE_BYTES", (tmp_path / "old.npz").stat().st_size)
    load_or_compute(tmp_path, "new", ("ids",), Computing())
    assert {path.name for path in tmp_path.iterdir()} == {"lost+found", "new.npz"}
    assert not caplog.records


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_compute(tmp_path, "small", ("ids",), Computing({"ids": NUMBERS[:10]}))
    monkeypatch.setattr(array_cache, "MAX_CACHE_BYTES", 2000)
    np.testing.assert_array_equal(load_or_compute(tmp_path, "large", ("ids",), Computing())["ids"], NUMBERS)
    assert [path.stem for path in tmp_path.iterdir()] == ["small"]


def test_a_folder_that_cannot_be_written_is_gone_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    np.testing.assert_array_equal(
        load_or_compute(tmp_path / "file" / "cache", "a", ("ids",), Computing())["ids"], NUMBERS
    )
    assert "Nothing is cached in" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_full_volume_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A file size limit fails a write as a full volume does.
    program = f"""
import resource, signal, numpy as np
from pathlib import Path
from trainingtask_trainer.preprocessors.array_cache import load_or_compute
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
folder = Path({str(tmp_path)!r})
print(load_or_compute(folder, "a", ("ids",), lambda: {{"ids": np.zeros(100_000)}})["ids"].shape, list(folder.iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "(100000,) []\n"
    assert "Nothing is cached in" in done.stderr


def test_the_key_changes_with_all_that_it_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text("1")
    other.write_text("1")
    keys = [
        compute_key(["tokens", 128], ["a", "bc"], [one]),
        compute_key(["tokens", 64], ["a", "bc"], [one]),
        compute_key(["tokens", 128], ["ab", "c"], [one]),
        compute_key(["tokens", 128], ["bc", "a"], [one]),
        compute_key(["tokens"], ["128", "a", "bc"], [one]),
        compute_key(["tokens", 128], ["a", "bc"], [other]),
    ]
    one.write_text("2")
    keys.append(compute_key(["tokens", 128], ["a", "bc"], [one]))
    assert len(set(keys)) == len(keys)
    assert compute_key(["tokens"], ["a\ud800"], []) == compute_key(["tokens"], ["a\ud800"], [])


def test_an_entry_without_an_array_is_computed_anew(tmp_path: Path) -> None:
    load_or_compute(tmp_path, "a", ("ids",), Computing())  # by a release that knew no lengths
    compute = Computing({"ids": NUMBERS, "lengths": NUMBERS})
    for _ in range(2):
        assert set(load_or_compute(tmp_path, "a", ("ids", "lengths"), compute)) == {"ids", "lengths"}
    assert compute.times == 1
