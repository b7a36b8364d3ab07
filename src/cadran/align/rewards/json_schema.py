"""The answer is JSON, and of the form that a schema asks for."""

import importlib.util
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from cadran.align.rewards.limited import Limited
from cadran.align.rewards.reward import Graded

_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)


class JsonSchema(Limited):
    """1 when the answer parses as JSON and satisfies a schema, else 0.

    Attributes:
        schema: the schema (draft 2020-12 unless it names another); a ``$ref`` to another document is not followed.
        field: of the row that holds the schema, instead.
        fenced: a code fence around the whole answer is taken away first.
    """

    name: str = "json_schema"
    content: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    field: str | None = None
    fenced: bool = True

    @model_validator(mode="after")
    def _checked(self) -> "JsonSchema":
        if (self.content is None) == (self.field is None):
            raise ValueError("give schema or field, one of them")
        if importlib.util.find_spec("jsonschema") is None:
            raise ValueError("it needs a package that is not there: pip install jsonschema")
        if self.content is not None:
            _check_schema(self.content)
        return self

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """1 or 0."""
        schema = self.content if self.field is None else self.needed(self.field, index, graded)
        if isinstance(schema, str):
            schema = json.loads(schema)
        text = graded[index].answer.strip()
        fence = _FENCE.match(text) if self.fenced else None
        try:
            instance = json.loads(fence[1] if fence else text, parse_constant=_no_constant)
            json.dumps(instance)  # what can be read and not written (nested too deeply) is not sent on
        except (ValueError, RecursionError):
            return 0.0
        return self.ask({"schema": schema, "instance": instance}, index, graded)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_schema(schema: Any) -> None:
    jsonschema = importlib.import_module("jsonschema")
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise ValueError(f"the schema is none: {error.message}") from None
