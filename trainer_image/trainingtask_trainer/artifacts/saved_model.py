"""The predictions of a saved model, whose folder may be untrusted: no code in it is run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainingtask_api.exports import Format
from trainingtask_api.reasons import Reason
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.model_manifest import Manifest, create_invalid_model_error, read_manifest
from trainingtask_trainer.errors import TrainerError, UserError, describe_with_location, join_names
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import Model, Predictor
from trainingtask_trainer.models.formats import MODEL_FILES, choose_format
from trainingtask_trainer.sources.columns import describe_non_text, join_texts, normalize_name, quote_names

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Prediction:
    """The labels of a text, with their probabilities, most probable first."""

    text: str
    labels: dict[str, float]

    def list_labels(self) -> list[dict[str, Any]]:
        """Return the labels as JSON has them."""
        return [{"label": label, "probability": probability} for label, probability in self.labels.items()]


class SavedModel:
    """A saved model, loaded once for many predictions.

    Parameters
    ----------
    folder
        A folder that `write_bundle` wrote.
    wanted
        The format to read; None: the model's own, or where that is not there, ONNX before its int8. ONNX imports no torch.
    threads
        Threads of a prediction with ONNX; None: one for each core that the process may use.

    Raises
    ------
    UserError
        When `folder` holds no saved model, a broken one, one that needs code, or not in the wanted format.
    """

    def __init__(self, folder: Path, wanted: Format | None = None, threads: int | None = None) -> None:
        self.manifest: Manifest = read_manifest(folder)
        _check_files(folder)
        self._rule = DecisionRule(self.manifest.thresholds, self.manifest.at_least_one, self.manifest.max_labels)
        self._folder = folder
        self.format: Format | None = choose_format(folder, self.manifest.formats, wanted)
        """The format that is read; None for that of an extension."""
        self._predict: Predictor = self._guard(lambda: self._load(threads))

    def predict_probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Return the calibrated probabilities of the labels, shape [texts, labels]."""
        probabilities = self._guard(lambda: self._predict(texts))
        shape, expected = np.shape(probabilities), (len(texts), len(self.manifest.labels))
        if shape != expected:
            raise create_invalid_model_error(
                self._folder,
                f"the model gives numbers of shape {shape} for {expected[0]} texts and {expected[1]} labels",
            )
        if not np.isfinite(probabilities).all():
            raise create_invalid_model_error(self._folder, "the model gives probabilities that are no numbers")
        if self.manifest.temperature is not None:
            from trainingtask_trainer.evaluation.calibration import scale_probabilities  # noqa: PLC0415 - scipy

            scale_probabilities(probabilities, self.manifest.temperature)
        return probabilities

    def predict(self, rows: Sequence[str]) -> list[Prediction]:
        """Return the labels of each row: those whose probability reaches their threshold, by the manifest's rule.

        A row is a text. For a model of several text columns it may be a JSON object with these.

        Raises
        ------
        UserError
            When a row is no Unicode text, or a JSON object without text, or nested too deep.
        """
        texts = [_read_row(row, self.manifest.text_columns) for row in rows]
        for number, text in enumerate(texts, start=1):
            _check_unicode(text, number)
        return self.choose_labels(texts, self.predict_probabilities(texts))

    def choose_labels(self, texts: Sequence[str], probabilities: Probabilities) -> list[Prediction]:
        """Return the labels of each text whose probability, shape [texts, labels], reaches their threshold."""
        predicted = self._rule.predict(probabilities)
        predictions = []
        for text, row, labels in zip(texts, probabilities, predicted, strict=True):
            chosen = np.flatnonzero(labels)  # before the sort: few of 10,000 labels are
            chosen = chosen[(-row[chosen]).argsort(kind="stable")]
            predictions.append(Prediction(text, {self.manifest.labels[index]: float(row[index]) for index in chosen}))
        return predictions

    def _load(self, threads: int | None) -> Predictor:
        if self.format in MODEL_FILES:
            from trainingtask_trainer.models.onnx.model import OnnxModel  # noqa: PLC0415 - the extra `onnx`

            return OnnxModel(self._folder, self.format, threads).predict_probabilities
        import joblib  # type: ignore[import-untyped] # noqa: PLC0415 - of scikit-learn, which ONNX does without

        model: type[Model] = registry.load_for_saved_model("models", self.manifest.model)
        predict = model.load(self._folder)

        def predict_in_threads(texts: Sequence[str]) -> Probabilities:
            with joblib.parallel_config(backend="threading"):  # an `n_jobs` in the files must not start processes
                return predict(texts)

        return predict_in_threads

    def _guard(self, read: Callable[[], _Value]) -> _Value:
        """Return the value of `read`; libraries raise any error over forged files."""
        try:
            return read()
        except TrainerError:
            raise
        except Exception as error:
            raise create_invalid_model_error(
                self._folder,
                f"its files cannot be read as model '{self.manifest.model}': {describe_with_location(error)}",
            ) from error


def _check_files(folder: Path) -> None:
    """Refuse pipes, devices and sockets: a read of one may never end."""
    for path in folder.rglob("*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise create_invalid_model_error(folder, f"{path.relative_to(folder)} is no file, but a pipe or a device")


def _read_row(row: str, columns: Sequence[str]) -> str:
    """Return the text of a row, of a JSON object that of its text columns."""
    if not columns or not row.lstrip().startswith("{"):
        return row
    try:
        cells = json.loads(row)
    except ValueError:
        return row
    except RecursionError as error:
        raise UserError(
            Reason.INVALID_DATA,
            f"a JSON object for this model has text under {join_names(columns, limit=16)}; this one is nested too deep to be"
            " read",
        ) from error
    return join_text_columns(cells, columns)


def _check_unicode(text: str, number: int) -> None:
    """Refuse half of a surrogate pair, which JSON can write, and which stands for a byte of an argument that is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(Reason.INVALID_DATA, f"text {number} is not Unicode text: {error}") from error


def join_text_columns(cells: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the text of a row's cells: its text columns joined as those of the training rows were.

    A column is found in spite of case and blanks around its name, as in a file.

    Raises
    ------
    UserError
        When there is text in none of the columns, something else in one, or more than one can be meant.
    """
    by_name: dict[str, list[str]] = {}
    for name in cells:
        by_name.setdefault(normalize_name(name), []).append(name)
    parts = []
    for column in columns:
        names = [column] if column in cells else by_name.get(normalize_name(column), [])
        if len(names) > 1:
            raise _create_row_error(f"one '{column}'", quote_names(names))
        parts.append(cells[names[0]] if names else None)
        if (what := describe_non_text(parts[-1])) is not None:
            raise _create_row_error(f"text or null under {column}", what)
    text = join_texts(parts)
    if not text:
        raise _create_row_error(f"text under {join_names(columns, limit=16)}", join_names(list(cells)) or "nothing")
    return text


def _create_row_error(allowed: str, found: str) -> UserError:
    return UserError(Reason.INVALID_DATA, f"a JSON object for this model has {allowed}; this one has {found}")
