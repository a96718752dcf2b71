"""Suspected label errors in the data, and mistakes of the model, as counts: no text of a row is among them."""

from typing import Annotated

from pydantic import Field

from trainingtask_api.rules import Contract

_Label = Annotated[str, Field(max_length=200)]
MAX_REPORTED_PAIRS = 50


class LabelErrorCounts(Contract):
    """Rows of one label that are predicted otherwise than they are labelled."""

    label: _Label = Field(description="The label.")
    false_positives: int = Field(description="Rows that are predicted to carry it and do not.")
    false_negatives: int = Field(description="Rows that carry it and are not predicted to.")
    suspected_missing: int = Field(description="Of the false positives, those where the given label seems wrong.")
    suspected_surplus: int = Field(description="Of the false negatives, those where the given label seems wrong.")


class LabelPair(Contract):
    """A confusion of two labels."""

    given: _Label = Field(description="Label that the rows carry and that is not predicted.")
    predicted: _Label = Field(description="The most probable label that is predicted instead.")
    rows: int = Field(description="Number of rows.")


class LabelErrors(Contract):
    """Where the model and the given labels disagree, on rows that the model was not trained on."""

    rows: int = Field(description="Rows that were looked at.")
    folds: int | None = Field(None, description="Folds of the training rows; absent when only held-out rows were read.")
    suspected_missing: int = Field(description="Labels that seem to be missing, in all rows together.")
    suspected_surplus: int = Field(description="Labels that seem to be too many, in all rows together.")
    conflicting_rows: int = Field(
        description="Rows of the data set whose text stands in another row with other labels."
    )
    near_duplicate_rows: int = Field(
        description="Rows of the data set whose text is another row's but for case, punctuation and spacing."
    )
    per_label: Annotated[list[LabelErrorCounts], Field(max_length=MAX_REPORTED_PAIRS)] = Field(
        [], description="The labels with the most errors, most first."
    )
    pairs: Annotated[list[LabelPair], Field(max_length=MAX_REPORTED_PAIRS)] = Field(
        [], description="The most frequent confusions, most first."
    )
