"""Reading and writing of skops files, with a check of all that is read, and without importing torch.

skops imports every module below `sklearn` to find the types it trusts, and one of those is a wrapper around torch:
seconds and hundreds of MiB for nothing. With the import blocked, that module is skipped.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import LabelBinarizer, Normalizer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from trainingtask_trainer.runtime.import_guard import block_import

# Types beside those that skops trusts by default. Both are plain arrays, so that reading them runs no code.
_TRUSTED_TYPES = [
    "scipy.sparse._csr.csr_matrix",  # the training rows of knn; read without pickle
    "sklearn.tree._tree.Tree",  # a forest's trees
]
# skops trusts every estimator of scikit-learn, and compiled code of many uses their numbers as indexes, unchecked. Those
# here run in Python and numpy, or `_check_value` checks their indexes.
_ALLOWED_ESTIMATORS = (
    *(TfidfVectorizer, CountVectorizer, HashingVectorizer, TfidfTransformer),
    *(FeatureUnion, Pipeline, Normalizer, TruncatedSVD),
    *(LogisticRegression, LinearSVC, RandomForestClassifier, DecisionTreeClassifier),
    *(OneVsRestClassifier, MultinomialNB, LabelBinarizer),  # of examples/extension
)
_PLAIN_TYPES = (str, bytes, bool, int, float, type, np.generic, np.dtype, type(None))


def dump(state: dict[str, Any], path: Path) -> None:
    """Write scikit-learn estimators and arrays into one file."""
    with block_import("torch"):
        import skops.io  # noqa: PLC0415 - seconds
    skops.io.dump(state, path)


def load(path: Path) -> dict[str, Any]:
    """Read a file that `dump` has written.

    Raises
    ------
    skops.io.exceptions.UntrustedTypesFoundException
        When the file holds a type that neither skops nor `_TRUSTED_TYPES` names; nothing of it has been built then.
    ValueError
        When it is compressed, holds another estimator than `_ALLOWED_ESTIMATORS`, or an index in it is out of bounds.
    """
    _check_size(path)
    with block_import("torch"):
        import skops.io  # noqa: PLC0415
    state: dict[str, Any] = skops.io.load(path, trusted=_TRUSTED_TYPES)
    _check_value(state, set())
    return state


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:  # reading a part stops at this size
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > (size := path.stat().st_size):  # `dump` compresses nothing
        raise ValueError(f"{path.name} has {size} bytes and unpacks to {unpacked}: at most its own size is allowed")


def _check_value(value: Any, seen: set[int]) -> None:
    """Refuse a value that holds, at any depth, a type that is no part of a model, or an index out of bounds."""
    if id(value) in seen or isinstance(value, _PLAIN_TYPES):
        return
    seen.add(id(value))
    parts: Iterable[Any] = ()
    if issparse(value):
        if value.format != "csr":  # the file may name the class otherwise
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
    elif type(value) in _ALLOWED_ESTIMATORS:
        parts = _check_estimator(value)
    else:
        raise ValueError(
            f"it holds a {type(value).__module__}.{type(value).__qualname__}, where a vectorizer or an estimator is "
            f"expected: {', '.join(known.__name__ for known in _ALLOWED_ESTIMATORS)}"
        )
    for part in parts:
        _check_value(part, seen)


def _check_estimator(estimator: Any) -> list[Any]:
    """Check the indexes that an estimator's compiled code uses; return its attributes, to be checked next."""
    held = dict(vars(estimator))
    _check_no_method_replaced(estimator)
    if "vocabulary_" in held:
        vocabulary = held["vocabulary_"]
        if type(vocabulary) is not dict or sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("a vocabulary does not number its terms from 0 on, each once")
    if isinstance(estimator, HashingVectorizer) and not held["n_features"] > 0:
        raise ValueError(f"n_features of a HashingVectorizer is {held['n_features']!r}, at least 1 is allowed")
    if isinstance(estimator, DecisionTreeClassifier) and "tree_" in held:
        raise ValueError("a tree stands outside of a forest, which alone checks what the tree reads")
    parts: list[Any] = []
    for tree in held.pop("estimators_") if isinstance(estimator, RandomForestClassifier) else ():
        if type(tree) is not DecisionTreeClassifier or tree.tree_.n_features != held["n_features_in_"]:
            raise ValueError("a tree of a forest reads other features than the forest")
        _check_no_method_replaced(tree)
        parts.extend(vars(tree).values())
    return [*parts, *held.values()]


def _check_no_method_replaced(estimator: Any) -> None:
    if any(callable(getattr(type(estimator), name, None)) for name in vars(estimator)):
        raise ValueError(f"a value stands in the place of a method of {type(estimator).__name__}")


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
