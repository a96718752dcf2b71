"""What a preprocessor gives to a run."""

from collections.abc import Sequence
from typing import Any, Protocol

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.places import Places


class Preprocessor(Protocol):
    """A kind of preprocessor, registered under the entry-point group ``trainingtask.preprocessors``."""

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None: ...

    def fit(self, texts: Sequence[str]) -> None:
        """Learn from the training texts, and from no others."""
        ...

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the features of these texts, in their order, as the models of this preprocessor read them."""
        ...

    def arguments(self) -> dict[str, Scalar]:
        """Return its arguments after all defaults, by their names in the spec."""
        ...
