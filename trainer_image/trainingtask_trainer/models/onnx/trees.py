"""Trees as one node of an ONNX graph, and the check of such a node, whose numbers ONNX Runtime uses as indexes."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

DOMAIN: Final = "ai.onnx.ml"
OPERATOR: Final = "TreeEnsembleRegressor"
_LEAF, _BRANCH = b"LEAF", b"BRANCH_LEQ"
_MAX_TARGETS = 100_000  # as many as a manifest has labels; each takes memory for each row and tree

Values = NDArray[Any]


def collect_attributes(forests: Sequence[tuple[Any, Sequence[int]]]) -> dict[str, Any]:
    """Return the attributes of the node of scikit-learn's forests, whose classes are 0 and 1, each with its targets.

    The target of a label is the mean over a forest's trees of the share of 1 in a leaf.
    """
    attributes: dict[str, list[Any]] = {}
    trees = [(tree.tree_, targets, len(forest.estimators_)) for forest, targets in forests for tree in forest]
    for number, (tree, targets, count) in enumerate(trees):
        is_leaf = tree.children_left == -1
        shares = tree.value[:, :, 1] / tree.value.sum(axis=2) / count
        # A leaf of no label must have a weight, too: one of 0 for the first.
        node, column = np.nonzero(is_leaf[:, np.newaxis] & ((shares > 0) | (np.arange(len(targets)) == 0)))
        for name, values in {
            "nodes_treeids": np.full(tree.node_count, number),
            "nodes_nodeids": np.arange(tree.node_count),
            "nodes_featureids": np.where(is_leaf, 0, tree.feature),
            "nodes_truenodeids": np.where(is_leaf, 0, tree.children_left),
            "nodes_falsenodeids": np.where(is_leaf, 0, tree.children_right),
            "nodes_values": np.where(is_leaf, 0, _round_down(tree.threshold)),
            "nodes_modes": np.where(is_leaf, _LEAF, _BRANCH),
            "target_treeids": np.full(len(node), number),
            "target_nodeids": node,
            "target_ids": np.asarray(targets)[column],
            "target_weights": shares[node, column],
        }.items():
            attributes.setdefault(name, []).extend(values.tolist())
    return attributes | {"aggregate_function": "SUM", "post_transform": "NONE"}


def _round_down(thresholds: Values) -> NDArray[np.float32]:
    """Return the largest 32-bit numbers that are not above the 64-bit ones: a feature has 32 bits, and stays on its side."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def check_trees(name: str, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    """Refuse a node of trees that names nodes, features or targets that it does not have, or has too many targets.

    Its input has to come from a Reshape to a constant width: the features that the trees may read.

    Raises
    ------
    ValueError
        With the file's name.
    """
    if node.op_type != OPERATOR:
        raise ValueError(f"{name} has a node {node.op_type}, which no export writes")
    known = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    nodes, first, last = (
        np.asarray(known.get(f"nodes_{part}", ())) for part in ("nodeids", "truenodeids", "falsenodeids")
    )
    trees, features = (np.asarray(known.get(f"nodes_{part}", ())) for part in ("treeids", "featureids"))
    modes, targets = known.get("nodes_modes", ()), np.asarray(known.get("target_ids", ()))
    if not len(nodes) == len(first) == len(last) == len(trees) == len(features) == len(modes) > 0 or not len(targets):
        raise ValueError(f"{name} has trees without nodes, or with attributes of other lengths")
    if (count := known.get("n_targets", 0)) > _MAX_TARGETS:
        raise ValueError(f"{name} has trees of {count} targets, at most {_MAX_TARGETS} are allowed")
    is_first = np.diff(trees, prepend=trees[0] - 1) != 0  # of a tree
    starts = np.flatnonzero(is_first)
    sizes = np.diff(starts, append=len(trees))
    is_branch = np.array([mode == _BRANCH for mode in modes])
    if (
        len(np.unique(trees[starts])) != len(starts)
        or (nodes != np.arange(len(nodes)) - np.repeat(starts, sizes)).any()
        or not (is_branch | np.array([mode == _LEAF for mode in modes])).all()
        # Each child is written after its parent: no circle.
        or (np.minimum(first, last) <= nodes)[is_branch].any()
        or (np.maximum(first, last) >= np.repeat(sizes, sizes))[is_branch].any()
        or not 0 <= features.min() <= features.max() < _get_width(node, graph)
        or not 0 <= targets.min() <= targets.max() < count
    ):
        raise ValueError(f"{name} has trees that name nodes, features or targets that they do not have")


def _get_width(node: onnx.NodeProto, graph: onnx.GraphProto) -> int:
    """Return the features that a node gets, 0 where that is not known."""
    source = next((other for other in graph.node if node.input[0] in other.output), None)
    if source is None or source.op_type != "Reshape":
        return 0
    shape = next((tensor for tensor in graph.initializer if tensor.name == source.input[1]), None)
    # The weights may still be elsewhere: nothing but what stands in the file is read.
    if shape is None or shape.data_location != onnx.TensorProto.DEFAULT or len(shape.dims) != 1 or shape.dims[0] != 2:
        return 0
    return int(numpy_helper.to_array(shape)[1])
