"""Generates the CustomResourceDefinition from the pydantic models: ``python -m trainingtask_api.crd > crds/trainingtasks.yaml``.

A CRD needs a *structural* schema: no ``$ref``, no ``const``, no ``null`` types. The converter refuses keywords that it
does not support, so that no constraint of a model is lost.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from trainingtask_api.names import GROUP, KIND, PLURAL, VERSION
from trainingtask_api.run_policy import MUTABLE_FIELDS
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import UNOBSERVED_STATUS, TrainingTaskStatus

Schema = dict[str, Any]

_COPIED = {
    "type",
    "description",
    "enum",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
}
_HANDLED = {
    "title",
    "default",
    "properties",
    "items",
    "additionalProperties",
    "anyOf",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "const",
}


class UnknownKeywordError(ValueError):
    """A model uses a JSON Schema keyword that this converter cannot express in a CRD."""


def to_structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a JSON schema as a structural schema.

    Raises
    ------
    UnknownKeywordError
        For a keyword or a union that has no structural form.
    """
    schema = _inline_reference(schema, definitions)
    unknown = set(schema) - _COPIED - _HANDLED
    if unknown:
        raise UnknownKeywordError(f"cannot express {sorted(unknown)} in a CRD: {schema}")
    result: Schema = {key: value for key, value in schema.items() if key in _COPIED}
    if "anyOf" in schema:
        result = _convert_union(schema, definitions) | {k: v for k, v in result.items() if k != "type"}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in schema:
            result[bound.lower()] = schema[f"exclusive{bound}"]
            result[f"exclusive{bound}"] = True
    if "items" in schema:
        result["items"] = to_structural(schema["items"], definitions)
    if "properties" in schema:
        result["properties"] = {name: to_structural(part, definitions) for name, part in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = to_structural(schema["additionalProperties"], definitions)
    if schema.get("default") is not None:
        # An object defaults to {}, and its fields have their own defaults: one place per default.
        default = schema["default"]
        result["default"] = {} if isinstance(default, dict) else default
        if default == [] or (isinstance(default, dict) and "properties" not in schema):
            del result["default"]
    return result


def _inline_reference(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Replace a ``$ref`` by its target; keywords beside the reference override the target's."""
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].removeprefix("#/$defs/")]
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return {**target, **beside}


def _convert_union(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the structural form of an ``anyOf``: optional, integer-or-string, or any scalar."""
    options = [option for option in schema["anyOf"] if option != {"type": "null"}]
    if len(options) == 1:
        return to_structural(options[0], definitions)
    types = {option.get("type") for option in options}
    if types == {"string", "integer"}:
        bounds = {key: option[key] for option in options for key in ("maxLength",) if key in option}
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], **bounds}
    if types == {"string", "integer", "number", "boolean"}:
        return {"x-kubernetes-preserve-unknown-fields": True}
    raise UnknownKeywordError(f"cannot express this union in a CRD: {schema}")


def _merge_rules(spec: Schema) -> Schema:
    """Return the schema of a spec with all rules of its objects as two: one for creation, one for updates.

    The API server evaluates every rule at every write, a status included, and copies the object's schema for each field
    that a rule reads: separate rules took half of its time for a status. A rule over immutable fields need not run
    again.
    """
    rules = list(_pop_rules(spec, "self"))
    at_creation = _join_rules([rule for rule in rules if "oldSelf" not in rule[0]], "oldSelf.hasValue()")
    mutable = tuple(f"self.runPolicy.{field}" for field in MUTABLE_FIELDS)
    at_update = _join_rules(
        [rule for rule in rules if any(text in rule[0] for text in ("oldSelf", *mutable))], "self == oldSelf"
    )
    spec["x-kubernetes-validations"] = [at_creation | {"optionalOldSelf": True}, at_update]
    return spec


def _join_rules(rules: list[tuple[str, str]], unless: str) -> dict[str, Any]:
    """Return one rule whose message lists the broken ones of `rules`, pairs of CEL and message; `unless` disables it."""
    broken = " + ".join(f"({rule} ? '' : {json.dumps('; ' + message, ensure_ascii=False)})" for rule, message in rules)
    return {
        "rule": f"{unless} || ({' && '.join(rule for rule, _ in rules)})",
        "message": "fields of the spec do not go together",
        "messageExpression": f"({broken}).substring(2)",
    }


def _pop_rules(schema: Schema, path: str, guard: str = "") -> Iterator[tuple[str, str]]:
    """Remove the rules of the object at `path` and of its parts; yield each as CEL on the spec, with its message."""
    for rule in schema.pop("x-kubernetes-validations", []):
        cel = re.sub(r"\bself\b", path, rule["rule"])
        yield (f"({guard}({cel}))" if guard else f"({cel})"), rule["message"]
    for name, part in schema.get("properties", {}).items():
        if "properties" in part:
            is_present = "default" in part or name in schema.get("required", ())
            yield from _pop_rules(part, f"{path}.{name}", guard if is_present else f"{guard}!has({path}.{name}) || ")


def _build_model_schema(model: type[TrainingTaskSpec | TrainingTaskStatus]) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    return to_structural({k: v for k, v in schema.items() if k != "$defs"}, schema.get("$defs", {}))


def _build_column(
    name: str, path: str, description: str, *, wide: bool = False, kind: str = "string"
) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
        **({"priority": 1} if wide else {}),
    }


PRINTER_COLUMNS = [
    _build_column("State", ".status.state", "Where the task stands"),
    _build_column("Dataset", ".spec.dataset.name", "Data set"),
    _build_column("Model", ".spec.model.name", "Model"),
    _build_column("Device", ".spec.device", "Kind of node"),
    _build_column("Progress", ".status.training.progress", "Progress of the training"),
    _build_column("Score", ".status.training.score", "Micro-averaged F1 on the test rows"),
    _build_column("Age", ".metadata.creationTimestamp", "Time since the task was created", kind="date"),
    _build_column("Loss", ".status.training.loss", "Latest training loss", wide=True, kind="number"),
    _build_column("ETA", ".status.training.eta", "Time left", wide=True),
    _build_column("Reason", ".status.reason", "Why the task is in this state", wide=True),
    _build_column("Job", ".status.jobName", "The Job that trains", wide=True),
    _build_column("Node", ".status.node", "The node of the latest attempt", wide=True),
]


def build_crd() -> dict[str, Any]:
    """Return the CRD of TrainingTask as a manifest."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["tt"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": PRINTER_COLUMNS,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A multi-label text classifier to train, and what became of it.",
                            "required": ["spec"],
                            "x-kubernetes-validations": [
                                {
                                    "rule": "self.metadata.name.size() <= 63",
                                    "message": "metadata.name must have at most 63 characters: it labels the task's Job and pods",
                                }
                            ],
                            "properties": {
                                "spec": _merge_rules(_build_model_schema(TrainingTaskSpec)),
                                "status": _build_model_schema(TrainingTaskStatus) | {"default": UNOBSERVED_STATUS},
                            },
                        }
                    },
                }
            ],
        },
    }


def to_yaml(manifest: dict[str, Any]) -> str:
    """Return the manifest as YAML."""
    import yaml  # noqa: PLC0415 - the base install has no PyYAML

    # Through JSON: enums become plain strings, and no YAML anchors appear.
    plain = json.loads(json.dumps(manifest))
    text: str = yaml.safe_dump(plain, sort_keys=False, width=10_000)
    return "# Generated from crds/trainingtask_api by `make crd`. Do not edit.\n" + text


if __name__ == "__main__":
    sys.stdout.write(to_yaml(build_crd()))
