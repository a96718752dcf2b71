"""ONNX files of a saved model, which may be untrusted: they are checked before ONNX Runtime reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from trainingtask_api.exports import Format
from trainingtask_trainer.models.formats import MODEL_FILES
from trainingtask_trainer.models.onnx.trees import check_trees

MAX_BYTES: Final = (2 << 30) - 1
"""The most that a protobuf message may have, and so a file whose weights stand in it."""
_MAX_NODES = 200_000
# The operators of the standard, of its trees, and those that ONNX Runtime itself ships and dynamic quantization writes.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
# Without it the kernels of a MiniLM in int8 take 14 % less time (docs/adr/0018-onnx.md).
_SLOW_FUSIONS = ("SkipLayerNormFusion",)
_FATAL = 4  # errors are raised as well


def open_session(folder: Path, kind: Format, threads: int) -> onnxruntime.InferenceSession:
    """Return the session of a saved model's ONNX file.

    The bytes that are checked are those that ONNX Runtime gets; it opens no other file.

    Raises
    ------
    ValueError
        When the file is no model, is too large, or has anything that an export does not write.
    """
    path = folder / MODEL_FILES[kind]
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path.name} has {size} bytes, at most {MAX_BYTES} are allowed")
    content = path.read_bytes()
    _check_model(path.name, content)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*_SLOW_FUSIONS]
    )


def _check_model(name: str, content: bytes) -> None:
    """Refuse weights in other files, operators of other libraries, and graphs inside of a graph.

    Without these nothing but the file is read, and each node runs once. The function of a model could hide all of them.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ValueError(f"{name} is no ONNX model: {error}") from error
    if unknown := {entry.domain for entry in model.opset_import} - _DOMAINS:
        raise ValueError(f"{name} needs operators of {', '.join(sorted(unknown))}: only those of ONNX are allowed")
    if model.functions or len(model.graph.node) > _MAX_NODES:
        raise ValueError(f"{name} has functions of its own, or more than {_MAX_NODES} nodes")
    for node in model.graph.node:
        if node.domain not in _DOMAINS:
            raise ValueError(f"{name} has a node of {node.domain}: only operators of ONNX are allowed")
        if node.domain == "ai.onnx.ml":
            check_trees(name, node, model.graph)
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(f"{name} has a graph inside of its node {node.op_type}, which no export writes")
    for tensor in _iter_tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise ValueError(f"{name} has weights in another file, {tensor.name}: only those in the file are allowed")


def _iter_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
