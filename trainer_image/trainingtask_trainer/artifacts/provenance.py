"""The provenance in the results: all arguments and versions; and the check that their numbers are finite."""

import math
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from trainingtask_api.formatting import remove_query
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Results, Scalar
from trainingtask_trainer.datasets.splits import PreparedData
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.runtime.cgroup import get_cpu_limit

# Sections of the spec that the numbers depend on.
_SPEC_SECTIONS = ("dataset", "preprocessor", "model", "training", "evaluation")
_BASE_PACKAGES = ("trainingtask", "numpy", "scikit-learn")


def collect_arguments(
    spec: TrainingTaskSpec, data: PreparedData, preprocessor_name: str, preprocessor: Preprocessor, model: Model
) -> dict[str, Scalar]:
    """Return the arguments after all defaults, flat: ``{"training.epochs": 3}``."""
    written = spec.to_json()
    resolved: dict[str, Scalar] = {}
    for section in _SPEC_SECTIONS:
        resolved.update(_flatten(section, written.get(section, {})))
    resolved |= data.fractions
    resolved |= {"preprocessor.name": preprocessor_name, "device": spec.device.value, "cpuThreads": get_cpu_limit()}
    resolved |= {f"preprocessor.{key}": value for key, value in preprocessor.arguments().items()}
    resolved |= model.arguments()
    return dict(sorted(resolved.items()))


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flatten(f"{prefix}.{key}", part)
    elif isinstance(value, list):
        yield prefix, ",".join(map(str, value))
    elif prefix.endswith(".uri"):
        yield prefix, remove_query(value)
    else:
        yield prefix, value


def collect_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of distributions, without importing any of them."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in sorted({*_BASE_PACKAGES, *packages})
    }


def check_finite(results: Results) -> None:
    """Refuse results with a number that JSON cannot hold.

    Raises
    ------
    UserError
        When a number is NaN or infinite.
    """
    for path, value in _flatten("results", results.model_dump(mode="python", by_alias=True)):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                Reason.NON_FINITE_LOSS,
                f"{path} is {value}: look at the data, and with a transformer lower training.learningRate",
            )
