"""Reading and writing skops files without paying for torch.

skops imports every module below `sklearn` to find the types it trusts, and one of those is a wrapper around torch:
seconds and hundreds of MiB for nothing. Without torch that module is skipped, as where torch is not installed.
"""

from pathlib import Path
from typing import Any

from trainingtask_trainer.imports import without

# What classical models hold beside the types that skops trusts by itself. Both are arrays and nothing else, so that
# reading them runs no code of the file's.
_TRUSTED = [
    "scipy.sparse._csr.csr_matrix",  # the training rows that knn searches; read without pickle
    "sklearn.tree._tree.Tree",  # a forest's trees; their indexes are not checked: a forged file may crash the process
]


def dump(state: dict[str, Any], path: Path) -> None:
    """Write scikit-learn estimators and arrays into one file."""
    with without("torch"):
        import skops.io  # noqa: PLC0415 - seconds
    skops.io.dump(state, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `dump` has written.

    Raises
    ------
    skops.io.exceptions.UntrustedTypesFoundException
        When the file holds a type that neither skops nor `_TRUSTED` names; nothing of it has been built then.
    """
    with without("torch"):
        import skops.io  # noqa: PLC0415
    state: dict[str, Any] = skops.io.load(path, trusted=_TRUSTED)
    return state
