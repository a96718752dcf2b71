"""A fitted classical model over tf-idf as an ONNX file."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from trainingtask_api.exports import Format
from trainingtask_trainer.models.formats import MODEL_FILES, NotExportableError
from trainingtask_trainer.models.onnx import graphs
from trainingtask_trainer.preprocessors.base import TERMS_FILE, HasVectorizer, Preprocessor
from trainingtask_trainer.preprocessors.tfidf_file import write_terms


def write_model(state: dict[str, Any], preprocessor: Preprocessor, folder: Path) -> None:
    """Write the ONNX file and the terms of a model.

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
        When the features are not tf-idf, the model is its training rows, or it is too large.
    """
    if not isinstance(preprocessor, HasVectorizer):
        raise NotExportableError("its features are not those of preprocessor.name 'tfidf'")
    try:
        write_terms(folder / TERMS_FILE, preprocessor.vectorizer)
    except ValueError as error:
        raise NotExportableError(f"its vectorizer is {error}") from error
    terms = len(preprocessor.vectorizer.get_feature_names_out())
    path = folder / MODEL_FILES[Format.ONNX]
    fitted = state.get("fitted", {"estimators": [], "chain": False})
    if "forest" in fitted:
        shares = {"varying": state["varying"], "prior": state["prior"]}
        graphs.write_forests(path, [fitted["forest"]], terms=terms, chain=False, **shares)
    elif fitted.get("estimators") and hasattr(fitted["estimators"][0], "estimators_"):
        shares = {"varying": state["varying"], "prior": state["prior"]}
        graphs.write_forests(path, fitted["estimators"], terms=terms, chain=fitted["chain"], **shares)
    elif "estimators" in fitted:
        _write_linear(path, fitted, terms, state)
    else:
        raise NotExportableError("the model is its training rows")


def _write_linear(path: Path, fitted: dict[str, Any], terms: int, state: dict[str, Any]) -> None:
    """Write a linear model; a label that is constant has weights of 0 and the logit of its share."""
    varying, prior = state["varying"], state["prior"]
    weights, bias = np.zeros((terms, len(prior)), np.float32), np.zeros(len(prior))
    links = np.zeros((len(prior), len(prior))) if fitted["chain"] else None
    slope, shift = np.zeros(len(prior)), logit(prior)
    slope[varying], shift[varying] = fitted.get("slope", 1.0), fitted.get("intercept", 0.0)
    for index, estimator in enumerate(fitted["estimators"]):
        weights[:, varying[index]] = estimator.coef_[0, :terms]
        bias[varying[index]] = estimator.intercept_[0]
        if links is not None:
            links[varying[:index], varying[index]] = estimator.coef_[0, terms:]
    graphs.write_linear(path, weights, bias, links=links, slope=slope, shift=shift)
