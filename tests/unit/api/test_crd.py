import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainingtask_api.crd import UnknownKeywordError, build_crd, to_structural, to_yaml

COMMITTED = Path(__file__).parents[3] / "crds" / "trainingtasks.yaml"


def test_the_committed_crd_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == to_yaml(build_crd()), "run `make crd`"


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from schemas(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}[]")


ALL = dict(schemas(build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize("path", [path for path in ALL if path and not path.endswith("[]")])
def test_every_field_has_a_description(path: str) -> None:
    assert ALL[path].get("description", "").strip()


@pytest.mark.parametrize("path", [path for path in ALL if path.startswith(".spec")])
def test_every_string_list_and_map_of_the_spec_is_bounded(path: str) -> None:
    schema = ALL[path]
    if schema.get("type") == "string":
        assert "maxLength" in schema or "enum" in schema
    if schema.get("type") == "array":
        assert "maxItems" in schema
    if schema.get("type") == "object":
        assert "properties" in schema or "maxProperties" in schema


def test_every_bound_is_a_whole_number() -> None:
    """The API server cuts the bound of a number to a whole one where the value is one: 0 would not be below 0.1."""
    bounds = [(path, schema[key]) for path, schema in ALL.items() for key in ("minimum", "maximum") if key in schema]
    assert [(path, bound) for path, bound in bounds if bound != int(bound)] == []


def test_fields_checked_only_at_creation_are_immutable() -> None:
    at_creation, of_a_change = ALL[".spec"]["x-kubernetes-validations"]
    for field in ALL[".spec"]["properties"]:
        if f"self.{field}" in at_creation["rule"] and field != "runPolicy":
            assert f"self.{field} == oldSelf.{field}" in of_a_change["rule"]
    others = [path for path, schema in ALL.items() if "properties" in schema and path not in ("", ".spec")]
    assert not [path for path in others if "x-kubernetes-validations" in ALL[path]]


def test_rules_over_fields_that_may_change_hold_for_a_change_as_well() -> None:
    at_creation, of_a_change = ALL[".spec"]["x-kubernetes-validations"]
    read = set(re.findall(r"self\.runPolicy\.\w+", at_creation["rule"]))
    assert read == {"self.runPolicy.deleteTask", "self.runPolicy.ttlSecondsAfterFinished"}
    assert read <= set(re.findall(r"self\.runPolicy\.\w+", of_a_change["rule"]))


def test_the_crd_is_smaller_than_256_kib() -> None:
    assert len(to_yaml(build_crd())) < 256 * 1024


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "contentEncoding": "base64"},
        {"anyOf": [{"type": "string"}, {"type": "object", "properties": {}}]},
        {"type": "array", "uniqueItems": True},
    ],
)
def test_unsupported_keywords_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnknownKeywordError):
        to_structural(schema, {})


def test_references_bounds_constants_and_nulls_become_structural() -> None:
    definitions = {
        "Part": {"type": "object", "title": "Part", "properties": {"n": {"exclusiveMinimum": 0, "type": "number"}}}
    }
    schema = {"anyOf": [{"$ref": "#/$defs/Part"}, {"type": "null"}], "default": None, "description": "d"}
    assert to_structural(schema, definitions) == {
        "type": "object",
        "description": "d",
        "properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
    }
    assert to_structural({"const": "a", "type": "string"}, {}) == {"type": "string", "enum": ["a"]}
