"""The data sets, preprocessors and models that an image offers: ordinary entry points, found without importing them."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from trainingtask_trainer.errors import Fault, UserError

Kind = Literal["datasets", "preprocessors", "models"]
KINDS: tuple[Kind, ...] = ("datasets", "preprocessors", "models")


def offered(kind: Kind) -> dict[str, EntryPoint]:
    """Return the registered names of a kind, sorted, with the entry point behind each."""
    points = {point.name: point for point in entry_points(group=f"trainingtask.{kind}")}
    return dict(sorted(points.items()))


def check(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point of a registered name without importing what is behind it.

    Raises
    ------
    UserError
        When this image does not offer the name; the message lists what it does offer.
    """
    known = offered(kind)
    if name not in known:
        singular = kind.removesuffix("s")
        raise UserError(
            "UnknownName", f"{singular} '{name}' is not offered by this image, which knows {', '.join(known)}"
        )
    return known[name]


def load(kind: Kind, name: str) -> Any:
    """Return the class behind a registered name.

    Raises
    ------
    UserError
        When this image does not offer the name.
    Fault
        When the class cannot be imported: the image is incomplete.
    """
    point = check(kind, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise Fault(
            "BrokenImage", f"{kind.removesuffix('s')} '{name}' ({point.value}) cannot be loaded: {error}"
        ) from error
