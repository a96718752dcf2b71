"""The protocols of preprocessors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar, TextLengths
from trainingtask_trainer.volumes import Volumes

TOKENIZER_FILE: Final = "tokenizer.json"
"""The file of a tokenizer that the library `tokenizers` reads."""
TERMS_FILE: Final = "terms.json"
"""The file of a tf-idf's terms, see `tfidf_file`."""


class Preprocessor(Protocol):
    """A kind of preprocessor, registered under the entry-point group ``trainingtask.preprocessors``.

    To be saved with a classical model, it must also be `HasVectorizer` or `Saveable`.
    """

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None: ...

    def fit(self, texts: Sequence[str]) -> None:
        """Learn from the training texts."""
        ...

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the features of these texts, in their order, as the models of this preprocessor read them."""
        ...

    def arguments(self) -> dict[str, Scalar]:
        """Return its arguments after all defaults, by their names in the spec."""
        ...


@runtime_checkable
class HasVectorizer(Protocol):
    """A preprocessor whose whole state is one scikit-learn transformer of texts, which skops can write."""

    vectorizer: Any


@runtime_checkable
class Saveable(Protocol):
    """A preprocessor that writes and reads its own files."""

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an existing folder, beside a model's files."""
        ...

    @staticmethod
    def load(folder: Path) -> Callable[[Sequence[str]], Any]:
        """Return the function from texts to features; runs no code from the folder."""
        ...


@runtime_checkable
class HasEncoder(Protocol):
    """A preprocessor whose features are the unit vectors of a frozen encoder, see `embedding.pool`."""

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        ...

    def load_encoder(self) -> Any:
        """Return the encoder, a `PreTrainedModel`."""
        ...

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, which cuts texts as training did."""
        ...


@runtime_checkable
class HasTextLengths(Protocol):
    """A preprocessor that counts and cuts tokens, and knows since `fit` how long the training texts are."""

    @property
    def text_lengths(self) -> TextLengths | None:
        """Return the lengths of the training texts, None before `fit`."""
        ...

    def list_warnings(self) -> list[str]:
        """Return warnings about the training texts that are cut."""
        ...
