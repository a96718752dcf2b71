"""Files on a volume that the pod's user may not read."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.volumes import resolve_path


@contextmanager
def volume(mode: int) -> Iterator[Path]:
    """Yield a folder with sub/a.csv and a link to it, `sub` with these permissions, to another user than root."""
    is_root = os.getuid() == 0  # to whom nothing is closed
    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to others
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "sub").mkdir()
        (folder / "sub" / "a.csv").touch()
        (folder / "link.csv").symlink_to(folder / "sub" / "a.csv")
        (folder / "sub").chmod(mode)
        if is_root:
            os.setresuid(65534, 65534, 0)
        try:
            yield folder
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
            (folder / "sub").chmod(0o755)


def resolve(folder: Path, path: str) -> Path:
    return resolve_path(folder, path, "dataset.path", "data", Reason.DATASET_NOT_FOUND)


@pytest.mark.parametrize("path", ["sub", "sub/a.csv", "sub/none.csv", "link.csv"])
def test_a_closed_folder_is_named_for_all_that_it_holds(path: str) -> None:
    with volume(0) as folder, pytest.raises(UserError) as caught:
        resolve(folder, path)
    assert caught.value.message.startswith(
        f"dataset.path '{path}' in volume claim 'data': sub may not be read by user "
    )


@pytest.mark.parametrize("path", ["sub/a.csv", "link.csv"])
@pytest.mark.parametrize("mode", [0o555, 0o111])
def test_a_file_is_found_in_a_folder_that_may_be_entered(path: str, mode: int) -> None:
    with volume(mode) as folder:
        assert resolve(folder, path) == folder / path


@pytest.mark.parametrize(("mode", "there"), [(0o555, "{}/sub holds a.csv"), (0o111, "{} holds link.csv, sub/")])
def test_a_missing_file_is_told_with_the_nearest_folder_that_may_be_read(mode: int, there: str) -> None:
    with volume(mode) as folder, pytest.raises(UserError, match=rf": {re.escape(there.format(folder))}$"):
        resolve(folder, "sub/none.csv")
