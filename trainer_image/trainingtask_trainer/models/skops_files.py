"""Reading and writing skops files without paying for torch.

skops imports every module below `sklearn` to find the types it trusts, and one of those is a wrapper around torch:
seconds and hundreds of MiB for nothing. Without torch that module is skipped, as where torch is not installed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.tree._tree import Tree

from trainingtask_trainer.imports import without

# What classical models hold beside the types that skops trusts by itself. Both are arrays and nothing else, so that
# reading them runs no code of the file's. Compiled code follows the indexes in them without a look: `_check_indexes` does.
_TRUSTED = [
    "scipy.sparse._csr.csr_matrix",  # the training rows that knn searches; read without pickle
    "sklearn.tree._tree.Tree",  # a forest's trees
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
    ValueError
        When an index in it leads out of its array.
    """
    with without("torch"):
        import skops.io  # noqa: PLC0415
    state: dict[str, Any] = skops.io.load(path, trusted=_TRUSTED)
    _check_indexes(state, set())
    return state


def _check_indexes(value: Any, seen: set[int]) -> None:
    """Refuse sparse matrices and trees, anywhere in `value`, that would send compiled code out of their arrays."""
    if id(value) in seen or isinstance(value, str | int | float | None):
        return
    seen.add(id(value))
    parts: Iterable[Any] = ()
    if issparse(value):
        if value.format != "csr":  # whatever the file calls it
            raise ValueError(f"a sparse matrix of format {value.format} where only csr is expected")
        value.check_format(full_check=True)
    elif isinstance(value, Tree):
        _check_tree(value)
    elif isinstance(value, np.ndarray):
        parts = value.ravel() if value.dtype == object else ()
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple | set):
        parts = value
    else:
        parts = getattr(value, "__dict__", {}).values()
    for part in parts:
        _check_indexes(part, seen)


def _check_tree(tree: Tree) -> None:
    state = tree.__getstate__()
    nodes = state["nodes"]
    inner = np.flatnonzero(nodes["left_child"] != -1)  # a leaf has no children, and its feature is not read
    children = np.stack([nodes["left_child"][inner], nodes["right_child"][inner]])
    features = nodes["feature"][inner]
    if (
        not 0 < state["node_count"] == len(nodes)
        or (children <= inner).any()  # each child is written after its parent: no circle
        or (children >= len(nodes)).any()
        or (features < 0).any()
        or (features >= tree.n_features).any()
    ):
        raise ValueError("a tree names nodes or features that it does not have")
