"""The graphs of classical models, over tf-idf or over the vectors of an encoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trainingtask_trainer.models.formats import NotExportableError
from trainingtask_trainer.models.onnx import trees
from trainingtask_trainer.models.onnx.files import MAX_BYTES
from trainingtask_trainer.models.onnx.inputs import TermInputs
from trainingtask_trainer.models.onnx.model import LOGITS

PROBABILITIES = "probabilities"
VECTORS = "vectors"
"""The name of an encoder's output, which a `VectorGraph` reads."""
OPSET = 18
"""The version of ONNX's own operators, which an encoder must share."""
_OPSETS = {"": OPSET, trees.DOMAIN: 3}
_IR_VERSION = 10
_TOO_LARGE = f"it has more than the {MAX_BYTES} bytes that an ONNX file may have"

Values = NDArray[Any]


class Graph(ABC):
    """Nodes and constants of a graph in the making; each method returns the name of what it adds."""

    def __init__(self, width: int, size: int = 0) -> None:
        """Begin a graph over `width` features of each row, which has `size` bytes before any constant is added."""
        self.width = width
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._bytes = size

    @abstractmethod
    def multiply(self, weights: Values) -> str:
        """Add the product of the features with weights of shape [width, labels]; its shape is [rows, labels]."""

    @abstractmethod
    def add_features(self) -> str:
        """Add the features, shape [rows, width]."""

    @abstractmethod
    def _create_inputs(self) -> list[onnx.ValueInfoProto]: ...

    def _complete(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with what comes before its inputs."""
        return model

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def add_constant(self, values: Values) -> str:
        """Add a constant.

        Raises
        ------
        NotExportableError
            When all of them together do not fit into a file.
        """
        self._bytes += values.nbytes
        if self._bytes > MAX_BYTES:
            raise NotExportableError(_TOO_LARGE)
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def write(self, path: Path, output: str, kind: str, labels: int) -> None:
        """Write the graph with an output of shape [rows, labels] called `kind`.

        Raises
        ------
        NotExportableError
            When it does not fit into a file.
        """
        self._nodes.append(helper.make_node("Identity", [output], [kind]))
        outputs = [helper.make_tensor_value_info(kind, TensorProto.FLOAT, ["rows", labels])]
        graph = helper.make_graph(self._nodes, "classifier", self._create_inputs(), outputs, self._constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        try:
            onnx.save_model(self._complete(model), path)
        except EncodeError as error:
            raise NotExportableError(_TOO_LARGE) from error


class TermGraph(Graph):
    """A graph over the tf-idf weights of terms, whose inputs are `TermInputs`.

    Terms are few of a large vocabulary, so that a product gathers the rows of the matrix that they name.
    """

    def multiply(self, weights: Values) -> str:
        """Add the product of the terms' weights with the rows that they name."""
        ids, term_weights = TermInputs.names
        gathered = self.add("Gather", self.add_constant(weights.astype(np.float32)), ids)
        row_axis = self.add_constant(np.array([1]))
        products = self.add("MatMul", self.add("Unsqueeze", term_weights, row_axis), gathered)
        return self.add("Squeeze", products, row_axis)

    def add_features(self) -> str:
        """Add the weights of all terms; terms that fill a row have a weight of 0."""
        ids, term_weights = TermInputs.names
        rows = self.add("Shape", ids, start=0, end=1)
        shape = self.add("Concat", rows, self.add_constant(np.array([self.width])), axis=0)
        empty = self.add("ConstantOfShape", shape)
        return self.add("ScatterElements", empty, ids, term_weights, axis=1, reduction="add")

    def _create_inputs(self) -> list[onnx.ValueInfoProto]:
        types = (TensorProto.INT64, TensorProto.FLOAT)
        return [
            helper.make_tensor_value_info(name, kind, ["rows", "terms"])
            for name, kind in zip(TermInputs.names, types, strict=True)
        ]


class VectorGraph(Graph):
    """A graph over the vectors of an encoder, which becomes its first part.

    Parameters
    ----------
    encoder
        A model with the output `VECTORS`, shape [rows, width].
    width
        Numbers of a vector.
    """

    def __init__(self, encoder: onnx.ModelProto, width: int) -> None:
        super().__init__(width, encoder.ByteSize())
        self._encoder = encoder

    def multiply(self, weights: Values) -> str:
        """Add the product of the vectors with the weights."""
        return self.add("MatMul", VECTORS, self.add_constant(weights.astype(np.float32)))

    def add_features(self) -> str:
        """Return the vectors."""
        return VECTORS

    def _create_inputs(self) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["rows", self.width])]

    def _complete(self, model: onnx.ModelProto) -> onnx.ModelProto:
        # Not by `onnx.compose`, which copies the encoder. Its names have a scope or a dot, which those of this graph have not.
        whole = self._encoder
        whole.graph.node.extend(model.graph.node)
        whole.graph.initializer.extend(model.graph.initializer)
        del whole.graph.output[:], whole.opset_import[:]
        whole.graph.output.extend(model.graph.output)
        whole.opset_import.extend(model.opset_import)
        whole.ir_version = model.ir_version
        return whole


def write_linear(
    graph: Graph, path: Path, weights: Values, bias: Values, *, links: Values | None, slope: Values, shift: Values
) -> None:
    """Write a linear model of each label, whose logits are slope * (features @ weights + bias) + shift.

    Parameters
    ----------
    graph
        An empty one.
    path
        The file.
    weights
        Shape [features, labels].
    bias, slope, shift
        Shape [labels].
    links
        Of a chain: what label i adds to label j where i is decided, as its decision value is above 0; shape
        [labels, labels]. None without a chain.
    """
    decisions = graph.add("Add", graph.multiply(weights), graph.add_constant(bias.astype(np.float32)))
    if links is not None:
        decisions = _add_links(graph, decisions, links.astype(np.float32))
    scaled = graph.add("Mul", decisions, graph.add_constant(slope.astype(np.float32)))
    logits = graph.add("Add", scaled, graph.add_constant(shift.astype(np.float32)))
    graph.write(path, logits, LOGITS, len(bias))


def _add_links(graph: Graph, decisions: str, links: Values) -> str:
    zero = graph.add_constant(np.zeros((), np.float32))
    for label in np.flatnonzero(links.any(axis=1)):
        own = graph.add("Gather", decisions, graph.add_constant(np.array([label])), axis=1)
        decided = graph.add("Cast", graph.add("Greater", own, zero), to=TensorProto.FLOAT)
        decisions = graph.add("Add", decisions, graph.add("Mul", decided, graph.add_constant(links[label][np.newaxis])))
    return decisions


def write_forests(
    graph: Graph, path: Path, forests: Sequence[Any], *, varying: Values, prior: Values, chain: bool
) -> None:
    """Write forests: one of all labels that vary, or one for each of them.

    Parameters
    ----------
    graph
        An empty one.
    path
        The file.
    forests
        scikit-learn's, whose classes are 0 and 1.
    varying, prior
        The labels that the forests predict, and for each of the others its probability.
    chain
        The labels before a label, where their probability is above 0.5, are features after the others.
    """
    features = graph.add_features()
    if chain:
        known = features
        columns: list[str] = []
        half = graph.add_constant(np.array(0.5, np.float32))
        for forest in forests:
            columns.append(_add_trees(graph, known, graph.width + len(columns), [(forest, [0])], 1))
            decided = graph.add("Cast", graph.add("Greater", columns[-1], half), to=TensorProto.FLOAT)
            known = graph.add("Concat", known, decided, axis=1)
        probabilities = graph.add("Concat", *columns, axis=1)
    else:
        targets = [[index] for index in range(len(varying))] if len(forests) > 1 else [list(range(len(varying)))]
        probabilities = _add_trees(graph, features, graph.width, list(zip(forests, targets, strict=True)), len(varying))
    if len(varying) < len(prior):  # each label that varies to its place, and the shares of the others to a column of 0
        places, rest = np.full(len(prior), len(varying)), prior.astype(np.float32)
        places[varying], rest[varying] = np.arange(len(varying)), 0
        first = graph.add("Gather", probabilities, graph.add_constant(np.array([0])), axis=1)
        padded = graph.add("Concat", probabilities, graph.add("Sub", first, first), axis=1)
        placed = graph.add("Gather", padded, graph.add_constant(places), axis=1)
        probabilities = graph.add("Add", placed, graph.add_constant(rest))
    graph.write(path, probabilities, PROBABILITIES, len(prior))


def _add_trees(
    graph: Graph, features: str, width: int, forests: Sequence[tuple[Any, Sequence[int]]], targets: int
) -> str:
    """Add the trees of forests, each with the columns of its labels, as one node; its output has shape [rows, targets]."""
    read = graph.add("Reshape", features, graph.add_constant(np.array([-1, width])))  # see `check_trees`
    attributes = trees.collect_attributes(forests) | {"n_targets": targets}
    return graph.add(trees.OPERATOR, read, domain=trees.DOMAIN, **attributes)
