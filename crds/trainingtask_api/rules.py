"""Rules that the API server (CEL) and pydantic both enforce, with one message."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Rule:
    """A condition on a value, in CEL for the API server and in Python for a run without a cluster.

    Used as ``Annotated[str, Rule(...)]`` at a field, or in ``Contract.rules`` when it compares several
    fields of one object.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def as_validation(self) -> dict[str, str]:
        """Return the rule as an entry of ``x-kubernetes-validations``."""
        return {"rule": self.cel, "message": self.message}

    def check(self, value: Any) -> Any:
        """Return `value` if the rule holds for it, raise ValueError with the rule's message if not."""
        if not self.holds(value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        rule = self.as_validation()
        if schema.get("type") == "string":
            # The message repeats the value, which the API server leaves out.
            sentence = json.dumps("' is refused: " + self.message, ensure_ascii=False)
            rule["messageExpression"] = f'"\'" + self + {sentence}'
        schema.setdefault(VALIDATIONS, []).append(rule)
        return schema


class Contract(BaseModel):
    """Base of all objects of the API: camelCase in JSON, frozen, without unknown fields."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> "Contract":
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        if cls.rules:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.as_validation() for rule in cls.rules]
        return schema

    def to_json(self) -> dict[str, Any]:
        """Return the object as JSON of the API: camelCase, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
