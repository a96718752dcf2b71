"""A fitted classical model as an ONNX file, over tf-idf or with the encoder whose vectors it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.special import logit

from trainingtask_api.exports import Format
from trainingtask_trainer.models.formats import MODEL_FILES, NotExportableError
from trainingtask_trainer.models.onnx import graphs
from trainingtask_trainer.preprocessors.base import TERMS_FILE, HasEncoder, HasVectorizer, Preprocessor
from trainingtask_trainer.preprocessors.tfidf_file import write_terms


def write_model(state: dict[str, Any], preprocessor: Preprocessor, folder: Path) -> None:
    """Write the ONNX file of a model, and the terms or the tokenizer of its inputs.

    Parameters
    ----------
    state
        The fitted model, as `Classical` keeps it.
    preprocessor
        That of its features.
    folder
        The folder of the files.

    Raises
    ------
    NotExportableError
        When the features are neither tf-idf nor an encoder's, the model is its training rows, or it is too large.
    """
    fitted = state.get("fitted", {"estimators": [], "chain": False})
    if "forest" not in fitted and "estimators" not in fitted:
        raise NotExportableError("the model is its training rows")
    path = folder / MODEL_FILES[Format.ONNX]
    graph = _begin_graph(preprocessor, folder, path)
    forests = [fitted["forest"]] if "forest" in fitted else fitted["estimators"]
    if forests and hasattr(forests[0], "estimators_"):
        shares = {"varying": state["varying"], "prior": state["prior"]}
        graphs.write_forests(graph, path, forests, chain=fitted.get("chain", False), **shares)
    else:
        _write_linear(graph, path, fitted, state)


def _begin_graph(preprocessor: Preprocessor, folder: Path, path: Path) -> graphs.Graph:
    """Write the files that turn texts into the inputs of a graph, and return it empty."""
    if isinstance(preprocessor, HasVectorizer):
        try:
            write_terms(folder / TERMS_FILE, preprocessor.vectorizer)
        except ValueError as error:
            raise NotExportableError(f"its vectorizer is {error}") from error
        return graphs.TermGraph(len(preprocessor.vectorizer.get_feature_names_out()))
    if isinstance(preprocessor, HasEncoder):
        # Not for tf-idf: torch.
        from trainingtask_trainer.models.transformers.onnx_export import write_encoder  # noqa: PLC0415

        preprocessor.save_tokenizer(folder)
        encoder = preprocessor.load_encoder()
        write_encoder(encoder, preprocessor.tokenizer, folder)
        return graphs.VectorGraph(onnx.load_model(path), int(encoder.config.hidden_size))
    raise NotExportableError("its features are those of neither preprocessor.name 'tfidf' nor 'embedding'")


def _write_linear(graph: graphs.Graph, path: Path, fitted: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a linear model; a label that is constant has weights of 0 and the logit of its share."""
    varying, prior = state["varying"], state["prior"]
    width = graph.width
    weights, bias = np.zeros((width, len(prior)), np.float32), np.zeros(len(prior))
    links = np.zeros((len(prior), len(prior))) if fitted["chain"] else None
    slope, shift = np.zeros(len(prior)), logit(prior)
    slope[varying], shift[varying] = fitted.get("slope", 1.0), fitted.get("intercept", 0.0)
    for index, estimator in enumerate(fitted["estimators"]):
        weights[:, varying[index]] = estimator.coef_[0, :width]
        bias[varying[index]] = estimator.intercept_[0]
        if links is not None:
            links[varying[:index], varying[index]] = estimator.coef_[0, width:]
    graphs.write_linear(graph, path, weights, bias, links=links, slope=slope, shift=shift)
