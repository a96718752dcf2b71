"""GoEmotions (Demszky et al., ACL 2020): 28 labels on Reddit comments.

From the hub, or from a folder. The simplified edition has official splits; a folder holds it in the authors' TSV
(``train.tsv``, ``dev.tsv``, ``test.tsv``, ``labels.txt``; no header; text, comma-separated label indexes, comment id)
or in the hub's parquet files. For the raw edition see `go_emotions_raw`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from trainingtask_api.dataset import Config, HubSource
from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets import go_emotions_raw
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.volumes import describe_contents, resolve_path

HUB_ID = "google-research-datasets/go_emotions"
_TSV_FILES = ("train.tsv", "dev.tsv", "test.tsv")
_SPLITS = ("train", "validation", "test")


class GoEmotions:
    """Reddit comments with 28 emotions, simplified or raw, from the hub or from local files."""

    packages: ClassVar[tuple[str, ...]] = ("datasets", "iterative-stratification")

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the official splits, or the texts of the raw edition on whose labels raters agree."""
        raw = spec.config == Config.RAW
        if spec.path is None:
            hub = spec.hub or HubSource(id=HUB_ID)
            return _load_raw_from_hub(hub) if raw else _load_simplified_from_hub(hub)
        folder = resolve_path(root, spec.path, "dataset.path", spec.volume_claim, Reason.DATASET_NOT_FOUND)
        if raw:
            return go_emotions_raw.keep_agreed_labels(go_emotions_raw.read_rows(folder))
        if all((folder / name).is_file() for name in (*_TSV_FILES, "labels.txt")):
            return _read_tsv_folder(folder)
        parquet = {split: _find_parquet_files(folder, split) for split in _SPLITS}
        if all(parquet.values()):
            return _read_parquet_folder(folder, parquet)
        there = describe_contents(folder) if folder.is_dir() else "a file, not a folder"
        raise UserError(
            Reason.DATASET_NOT_FOUND,
            f"dataset.path '{spec.path}' ({folder}) needs {', '.join(_TSV_FILES)} and labels.txt, "
            f"or parquet files of the splits {', '.join(_SPLITS)}; it holds {there}",
        )


def _read_tsv_folder(folder: Path) -> RawData:
    names = _read_label_names(folder / "labels.txt")
    return RawData(names, *(_read_tsv_split(folder / file, len(names)) for file in _TSV_FILES))


def _read_label_names(path: Path) -> tuple[str, ...]:
    names = tuple(name.strip() for name in _read_text(path).split("\n") if name.strip())
    if len(names) < 2:
        raise UserError(Reason.INVALID_DATA, f"{path} holds {len(names)} label names, at least 2 are needed")
    return names


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(Reason.INVALID_DATA, f"{path} is not UTF-8 text: {error}") from error


def _read_tsv_split(path: Path, labels: int) -> Split:
    rows = list(_iter_tsv_rows(path, labels))
    return Split([text for text, _ in rows], encode_multi_hot((indexes for _, indexes in rows), labels))


def _iter_tsv_rows(path: Path, labels: int) -> Iterator[tuple[str, list[int]]]:
    # Without the csv module: quotes and single carriage returns in these comments are text.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line:
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != 3:
            raise UserError(
                Reason.INVALID_DATA,
                f"{path}, row {number}: {len(columns)} columns where text, labels and id are expected",
            )
        yield columns[0], _parse_label_indexes(columns[1].split(","), labels, f"{path}, row {number}, column 2")


def _parse_label_indexes(values: list[Any], labels: int, where: str) -> list[int]:
    try:
        indexes = [int(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UserError(Reason.INVALID_DATA, f"{where}: {values!r} are not label indexes") from error
    for index in indexes:
        if not 0 <= index < labels:
            raise UserError(Reason.INVALID_DATA, f"{where}: label index {index} is not within 0 to {labels - 1}")
    return indexes


def _build_split(texts: list[str], rows: list[Any], labels: int, where: str) -> Split:
    """Return the split with these cells of the columns text and labels."""
    for column, cells in (("text", texts), ("labels", rows)):
        if None in cells:
            raise UserError(Reason.INVALID_DATA, f"{where}: column '{column}' has empty cells")
    indexes = [
        _parse_label_indexes(row, labels, f"{where}, row {number}, column 'labels'")
        for number, row in enumerate(rows, start=1)
    ]
    return Split(texts, encode_multi_hot(indexes, labels))


def _find_parquet_files(folder: Path, split: str) -> list[Path]:
    # The hub keeps each configuration in a folder of its own.
    for place in (folder, folder / Config.SIMPLIFIED):
        files = sorted([*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.parquet")])
        if files:
            return files
    return []


def _read_parquet_folder(folder: Path, files: dict[str, list[Path]]) -> RawData:
    import pyarrow  # noqa: PLC0415 - unused for TSV
    import pyarrow.parquet  # noqa: PLC0415

    try:
        tables = {split: pyarrow.parquet.ParquetDataset(paths).read() for split, paths in files.items()}
    except pyarrow.ArrowInvalid as error:
        raise UserError(Reason.INVALID_DATA, f"{folder} holds a broken parquet file: {error}") from error
    names = _get_names_from_schema(tables["train"].schema.metadata or {})
    if names is None:
        label_file = folder / "labels.txt"
        if not label_file.is_file():
            raise UserError(
                Reason.INVALID_DATA, f"{files['train'][0]} does not name its labels: put their names into {label_file}"
            )
        names = _read_label_names(label_file)
    splits = []
    for split in _SPLITS:
        where = str(files[split][0])
        for column in ("text", "labels"):
            if column not in tables[split].column_names:
                raise UserError(
                    Reason.INVALID_DATA, f"{where}: no column '{column}', only {', '.join(tables[split].column_names)}"
                )
        texts, rows = (tables[split].column(column).to_pylist() for column in ("text", "labels"))
        splits.append(_build_split(texts, rows, len(names), where))
    return RawData(names, *splits)


def _get_names_from_schema(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the label names that the `datasets` library wrote into a parquet schema, None without them."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("labels", {}).get("feature", {}).get("names")
    return tuple(names) if names else None


def _load_simplified_from_hub(hub: HubSource) -> RawData:
    loaded = _load_hub_splits(hub, Config.SIMPLIFIED)
    try:
        names = tuple(loaded["train"].features["labels"].feature.names)
        parts = {split: (list(loaded[split]["text"]), list(loaded[split]["labels"])) for split in _SPLITS}
    except (KeyError, AttributeError) as error:
        raise UserError(
            Reason.INVALID_DATA, f"dataset.hub '{hub.id}' is not laid out as go_emotions: no {error}"
        ) from error
    splits = (
        _build_split(texts, rows, len(names), f"dataset.hub '{hub.id}', split '{split}'")
        for split, (texts, rows) in parts.items()
    )
    return RawData(names, *splits)


def _load_raw_from_hub(hub: HubSource) -> RawData:
    loaded = _load_hub_splits(hub, Config.RAW)
    if "train" not in loaded:
        raise UserError(Reason.INVALID_DATA, f"dataset.hub '{hub.id}' is not laid out as go_emotions: no 'train'")
    batches = loaded["train"].with_format("arrow").iter(1000)  # eight times as fast as row by row
    rows = (row for batch in batches for row in batch.to_pylist())
    return go_emotions_raw.keep_agreed_labels(
        (f"dataset.hub '{hub.id}', row {number}", row) for number, row in enumerate(rows, 1)
    )


def _load_hub_splits(hub: HubSource, config: Config) -> Any:
    """Return a data set of the hub by split."""
    from trainingtask_trainer.datasets.hub_splits import load_hub_splits  # noqa: PLC0415 - heavy; used for the hub alone

    return load_hub_splits(hub, config.value, "dataset.config")
