"""A data set of the hub as a table: which of its splits is which, and the columns of each."""

from collections.abc import Callable
from functools import partial
from typing import Any

from trainingtask_api.dataset import HubSource
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.sources.columnar import to_columns
from trainingtask_trainer.sources.columns import Columns, Wanted
from trainingtask_trainer.sources.data_files import SPLIT_NAMES


def open_hub_table(hub: HubSource) -> tuple[dict[str, Callable[[Wanted], Columns]], list[str]]:
    """Return what reads the columns of the training, the validation and the test split, and the names of other splits.

    Raises
    ------
    UserError
        When there is no training split, or not the one that the task names.
    """
    from trainingtask_trainer.datasets.hub_splits import load_hub_splits  # noqa: PLC0415 - slow to import

    splits = load_hub_splits(hub, hub.config)
    used = _name_splits(hub) if hub.splits else _find_splits(hub, list(splits))
    if missing := [name for name in used.values() if name not in splits]:
        raise UserError(
            Reason.DATASET_UNAVAILABLE,
            f"dataset.hub '{hub.id}' has no split '{missing[0]}', only {join_names(list(splits), 20)}: "
            "name those to use in dataset.hub.splits",
        )
    readers: dict[str, Callable[[Wanted], Columns]] = {
        role: partial(_read_split, splits[name], hub, name) for role, name in used.items()
    }
    return readers, [name for name in splits if name not in used.values()]


def _name_splits(hub: HubSource) -> dict[str, str]:
    return {role: name for role, name in hub.splits or () if name is not None}


def _find_splits(hub: HubSource, names: list[str]) -> dict[str, str]:
    """Return the name of the split for each use, by the names that people give them."""
    found: dict[str, list[str]] = {}
    for name in names:
        if role := SPLIT_NAMES.get(name.lower()):
            found.setdefault(role, []).append(name)
    for role, same in found.items():
        if len(same) > 1 and role not in same:
            raise UserError(
                Reason.INVALID_DATA,
                f"dataset.hub '{hub.id}' has several splits for {role}, {join_names(same)}: name one in dataset.hub.splits",
            )
    return {"train": "train"} | {role: role if role in same else same[0] for role, same in found.items()}


def _read_split(split: Any, hub: HubSource, name: str, wanted: Wanted) -> Columns:
    return to_columns(split.data.table, wanted, f"dataset.hub '{hub.id}', split '{name}'")
