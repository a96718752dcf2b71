"""Types of single fields, and the rules that several fields share."""

import re
from operator import attrgetter
from typing import Annotated, Any

from pydantic import Field
from pydantic.alias_generators import to_snake

from trainingtask_api.rules import Rule


def match_pattern(pattern: str, message: str) -> Rule:
    """Return a rule that a string matches `pattern` (RE2 and Python syntax alike)."""
    compiled = re.compile(pattern)
    escaped = pattern.replace("\\", "\\\\")
    return Rule(f"self.matches('{escaped}')", message, lambda value: compiled.search(value) is not None)


def to_cel_list(names: tuple[str, ...]) -> str:
    """Return the names as a CEL list."""
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def quote_names(names: tuple[str, ...]) -> str:
    """Return names as a part of a sentence: ``'a' and 'b'``."""
    return " and ".join(repr(name) for name in names)


def count_fields(fields: tuple[str, ...]) -> str:
    """Return the CEL expression of how many of these fields of an object are set."""
    return " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)


def refuse_field(field: str, section: str, name: str, refused: tuple[str, ...], reason: str) -> Rule:
    """Return the rule of a spec that it has no `section.field` when the value at the path `name` is one of `refused`."""
    attribute = to_snake(field)

    def holds(spec: Any) -> bool:
        part = getattr(spec, section)
        return part is None or getattr(part, attribute) is None or attrgetter(name)(spec) not in refused

    return Rule(
        f"!has(self.{section}.{field}) || !(self.{name} in {to_cel_list(refused)})",
        f"{section}.{field} {reason}",
        holds,
    )


HUB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"

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
    match_pattern(
        r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.', such as 'my-claim'",
    ),
]
RegisteredName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    match_pattern(
        r"^([a-z][a-z0-9_]*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        "must be a registered name (lower-case letters, digits and '_', such as 'distilbert'), or a class as 'module:Class'",
    ),
]
HubId = Annotated[
    str,
    Field(min_length=1, max_length=200),
    match_pattern(
        HUB_ID_PATTERN,
        "must be a hub id: 'name' or 'owner/name', such as 'google-research-datasets/go_emotions'",
    ),
]
Revision = Annotated[
    str,
    Field(min_length=1, max_length=200),
    match_pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", "must be a branch, a tag or a commit of the hub repository, such as 'main'"
    ),
]
Encoding = Annotated[
    str,
    Field(min_length=1, max_length=40),
    match_pattern(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "must be the name of a text encoding, such as 'utf-8' or 'cp1250'"),
]
Uri = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    match_pattern(
        r"^((s3|gs|az)://[A-Za-z0-9][-A-Za-z0-9._]*(/[^\x00-\x1f]*)?|https://[^/?#@\s]+(/[^#\s]*)?)$",
        "must be an address of an object store or a web server: 's3://bucket/path', 'gs://bucket/path', 'az://container/path' or 'https://host/path', without a user and password",
    ),
    Rule(
        "!self.split('/').exists(part, part == '..' || part == '.')",
        "must be an address without '.' and '..' in its path",
        lambda uri: not {"..", "."} & set(uri.split("/")),
    ),
]
StoreUri = Annotated[
    Uri,
    Rule(
        "!self.startsWith('https:')",
        "must be an address of an object store, 's3://bucket/path', 'gs://bucket/path' or 'az://container/path': a web server cannot be written",
        lambda uri: not uri.startswith("https:"),
    ),
    match_pattern(
        r"^[a-z0-9]+://[^/]+/+[^/]", "must name a folder in the bucket: its root itself cannot be replaced by a model"
    ),
]
HubRepository = Annotated[
    str,
    Field(min_length=3, max_length=200),
    match_pattern(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$", "must be a hub repository: 'owner/name'"),
]
HubConfig = Annotated[
    str,
    Field(min_length=1, max_length=100),
    match_pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", "must be a configuration of the hub data set, such as 'default' or 'en'"
    ),
]
HubSplit = Annotated[
    str,
    Field(min_length=1, max_length=100),
    match_pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.]*$", "must be a split of the hub data set, such as 'train'"),
]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
IndicatorName = Annotated[str, Field(min_length=1, max_length=100)]  # up to 500 in a pod's annotation
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
