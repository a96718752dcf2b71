"""The metadata of a model card: the YAML at its top, by which a hub lists, filters and compares models."""

import re
from typing import Any

import yaml

from trainingtask_api.capabilities import CLASSICAL_MODELS, TRANSFORMER_FAMILIES
from trainingtask_api.fields import HUB_ID_PATTERN
from trainingtask_api.status import Results, Scalar

_MAX_LABELS = 1000


def render_metadata(name: str, results: Results) -> str:
    """Return the metadata as a YAML document between its marks; it holds only what is known.

    The names of the keys are those of https://huggingface.co/docs/hub/model-cards.
    """
    arguments = results.arguments
    data_sets = _list_data_sets(results)
    metadata: dict[str, Any] = {
        "library_name": _get_library(arguments),
        "pipeline_tag": "text-classification",
        "tags": ["multi-label-classification", "trainingtask"],
        "base_model": _get_hub_id(arguments, "model") or _get_hub_id(arguments, "preprocessor"),
        "datasets": data_sets,
        "metrics": ["f1", "precision", "recall"],
        "labels": [score.label for score in results.evaluation.per_label[:_MAX_LABELS]],
        "model-index": [{"name": name, "results": [_build_evaluation(results, data_sets)]}],
    }
    known = {key: value for key, value in metadata.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"


def _build_evaluation(results: Results, data_sets: list[str]) -> dict[str, Any]:
    data_set = data_sets[0] if data_sets else str(results.arguments["dataset.name"])
    scores = results.evaluation
    metrics = [
        ("f1", "micro-F1", scores.micro.f1),
        ("f1", "macro-F1", scores.macro.f1),
        ("precision", "micro-precision", scores.micro.precision),
        ("recall", "micro-recall", scores.micro.recall),
    ]
    return {
        "task": {"type": "text-classification", "name": "Multi-label text classification"},
        "dataset": {"type": data_set, "name": data_set, "split": scores.split},
        "metrics": [
            {"type": kind, "name": title, "value": value} for kind, title, value in metrics if value is not None
        ],
    }


def _get_library(arguments: dict[str, Scalar]) -> str | None:
    if arguments["model.name"] in CLASSICAL_MODELS:
        return "sklearn"
    return "transformers" if arguments["model.name"] in TRANSFORMER_FAMILIES else None


def _get_hub_id(arguments: dict[str, Scalar], section: str) -> str | None:
    """Return the checkpoint of a section, if it came from a hub."""
    name = str(arguments.get(f"{section}.checkpoint", ""))
    is_elsewhere = f"{section}.volumeClaim" in arguments or f"{section}.uri" in arguments
    return name if not is_elsewhere and re.search(HUB_ID_PATTERN, name) else None


def _list_data_sets(results: Results) -> list[str]:
    read = [source.address for source in results.sources if source.field == "dataset.hub"]
    named = results.arguments.get("dataset.hub.id")
    return [str(named)] if named else read[:1]
