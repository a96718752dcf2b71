"""ONNX files of an attacker: none makes ONNX Runtime read another file, or run what is not of ONNX."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trainingtask_api.exports import Format
from trainingtask_trainer.models.onnx import files
from trainingtask_trainer.models.onnx.files import open_session

WEIGHTS = numpy_helper.from_array(np.ones((4, 2), np.float32), "weights")


def write(folder: Path, change: Callable[[onnx.ModelProto], None] = lambda model: None) -> Path:
    """Write a graph that gathers rows of its weights, changed."""
    node = helper.make_node("Gather", ["weights", "term_ids"], ["logits"])
    graph = helper.make_graph(
        [node],
        "forged",
        [helper.make_tensor_value_info("term_ids", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])],
        [WEIGHTS],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def move_outside(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def test_an_honest_file_is_opened(tmp_path: Path) -> None:
    session = open_session(write(tmp_path), Format.ONNX, 1)
    [logits] = session.run(None, {"term_ids": np.array([3, 0])})
    assert logits.shape == (2, 2)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.bin"])
def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    folder = write(tmp_path, lambda model: move_outside(model.graph.initializer[0], location))
    with pytest.raises(ValueError, match="has weights in another file, weights"):
        open_session(folder, Format.ONNX, 1)


def add_constant(model: onnx.ModelProto, name: str, value: object) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["more"], **{name: value}))


def test_a_constant_in_another_file_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        add_constant(model, "value", numpy_helper.from_array(np.ones(2, np.float32), "hidden"))
        move_outside(model.graph.node[1].attribute[0].t, "weights.bin")

    with pytest.raises(ValueError, match="weights in another file, hidden"):
        open_session(write(tmp_path, change), Format.ONNX, 1)


def test_a_sparse_weight_in_another_file_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        values = numpy_helper.from_array(np.ones(1, np.float32), "hidden")
        indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
        move_outside(model.graph.sparse_initializer[0].values, "weights.bin")

    with pytest.raises(ValueError, match="weights in another file, hidden"):
        open_session(write(tmp_path, change), Format.ONNX, 1)


def test_operators_of_another_library_are_refused(tmp_path: Path) -> None:
    def name_library(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("evil", 1))

    with pytest.raises(ValueError, match="needs operators of evil: only those of ONNX are allowed"):
        open_session(write(tmp_path, name_library), Format.ONNX, 1)

    def use_undeclared(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "com.microsoft"

    with pytest.raises(ValueError, match="has a node of com"):
        open_session(write(tmp_path, use_undeclared), Format.ONNX, 1)


def test_a_graph_inside_of_a_node_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        body = helper.make_graph([], "body", [], [])
        model.graph.node.append(helper.make_node("Loop", ["", ""], ["forever"], body=body))

    with pytest.raises(ValueError, match="a graph inside of its node Loop"):
        open_session(write(tmp_path, change), Format.ONNX, 1)


def test_functions_and_too_many_nodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node("Identity", ["x"], ["y"])
        model.functions.append(helper.make_function("", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))

    with pytest.raises(ValueError, match="has functions of its own"):
        open_session(write(tmp_path, change), Format.ONNX, 1)
    monkeypatch.setattr(files, "_MAX_NODES", 0)
    with pytest.raises(ValueError, match="or more than 0 nodes"):
        open_session(write(tmp_path), Format.ONNX, 1)


def test_a_file_that_is_too_large_or_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="is no ONNX model"):
        open_session(tmp_path, Format.ONNX, 1)
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole: takes no space
    with pytest.raises(ValueError, match="has 2147483648 bytes, at most 2147483647 are allowed"):
        open_session(tmp_path, Format.ONNX, 1)


TREES = {
    "nodes_treeids": [0, 0, 0, 1],
    "nodes_nodeids": [0, 1, 2, 0],
    "nodes_featureids": [3, 0, 0, 0],
    "nodes_truenodeids": [1, 0, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
    "target_treeids": [0, 0, 1],
    "target_nodeids": [1, 2, 0],
    "target_ids": [0, 1, 1],
    "target_weights": [1.0, 2.0, 3.0],
    "n_targets": 2,
}


def write_trees(folder: Path, *, width: int = 4, **forged: object) -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["features", "shape"], ["read"]),
            helper.make_node("TreeEnsembleRegressor", ["read"], ["logits"], domain="ai.onnx.ml", **TREES | forged),
        ],
        "forged",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.array([-1, width]), "shape")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def test_honest_trees_are_read(tmp_path: Path) -> None:
    session = open_session(write_trees(tmp_path), Format.ONNX, 1)
    [sums] = session.run(None, {"features": np.array([[0, 0, 0, 0], [0, 0, 0, 1]], np.float32)})
    np.testing.assert_array_equal(sums, [[1, 3], [0, 5]])


@pytest.mark.parametrize(
    "forged",
    [
        {"nodes_featureids": [4, 0, 0, 0]},
        {"nodes_featureids": [-1, 0, 0, 0]},
        {"width": 3},
        {"nodes_truenodeids": [0, 0, 0, 0]},
        {"nodes_falsenodeids": [3, 0, 0, 0]},
        {"nodes_nodeids": [0, 1, 1, 0]},
        {"nodes_treeids": [0, 0, 1, 0]},
        {"nodes_modes": ["BRANCH_MEMBER", "LEAF", "LEAF", "LEAF"]},
        {"target_ids": [0, 1, 2]},
        {"target_ids": [0, 1, -1]},
    ],
    ids=str,
)
def test_trees_that_index_what_is_not_there_are_refused(tmp_path: Path, forged: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="trees that name nodes, features or targets that they do not have"):
        open_session(write_trees(tmp_path, **forged), Format.ONNX, 1)  # type: ignore[arg-type]


def test_trees_of_too_many_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trees of 100001 targets, at most 100000 are allowed"):
        open_session(write_trees(tmp_path, n_targets=100_001), Format.ONNX, 1)


def test_trees_of_uneven_attributes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trees without nodes, or with attributes of other lengths"):
        open_session(write_trees(tmp_path, nodes_modes=["LEAF"]), Format.ONNX, 1)
