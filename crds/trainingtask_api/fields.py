"""Types of single fields and the rules that several fields share."""

import re
from typing import Annotated, Any

from pydantic import Field

from trainingtask_api.rules import Rule


def matches(pattern: str, message: str) -> Rule:
    """Return a rule that a string matches `pattern` (RE2 and Python syntax alike)."""
    compiled = re.compile(pattern)
    escaped = pattern.replace("\\", "\\\\")
    return Rule(f"self.matches('{escaped}')", message, lambda value: compiled.search(value) is not None)


def cel_in(names: tuple[str, ...]) -> str:
    """Return the names as a CEL list."""
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def attribute_of(field: str) -> str:
    """Return the Python name of a camelCase field."""
    return re.sub(r"([A-Z])", r"_\1", field).lower()


def only_for(field: str, section: str, name: str, refused: tuple[str, ...], what: str) -> Rule:
    """Return a spec-level rule: `section.field` is refused when the value at the path `name` is one of `refused`."""
    attribute = attribute_of(field)

    def holds(spec: Any) -> bool:
        part = getattr(spec, section)
        return part is None or getattr(part, attribute) is None or _dig(spec, name) not in refused

    return Rule(
        f"!has(self.{section}.{field}) || !(self.{name} in {cel_in(refused)})",
        f"{section}.{field} {what}",
        holds,
    )


def _dig(spec: Any, path: str) -> Any:
    for part in path.split("."):
        spec = getattr(spec, part)
    return spec


RelativePath = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Rule(
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        "must be a path relative to the root of the volume claim, without a leading '/' and without '..'",
        lambda path: not path.startswith("/") and ".." not in path.split("/"),
    ),
]
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    matches(
        r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.', such as 'my-claim'",
    ),
]
RegisteredName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    matches(
        r"^([a-z][a-z0-9_]*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        "must be a registered name (lower-case letters, digits and '_', such as 'distilbert'), or a class as 'module:Class'",
    ),
]
HubId = Annotated[
    str,
    Field(min_length=1, max_length=200),
    matches(
        r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        "must be a hub id: 'name' or 'owner/name', such as 'google-research-datasets/go_emotions'",
    ),
]
Revision = Annotated[
    str,
    Field(min_length=1, max_length=200),
    matches(
        r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", "must be a branch, a tag or a commit of the hub repository, such as 'main'"
    ),
]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
IndicatorName = Annotated[str, Field(min_length=1, max_length=100)]  # up to 500 of them in a pod's annotation
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
