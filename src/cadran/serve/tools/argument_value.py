"""The value of one argument out of the text that a model wrote for it, where the format is not JSON itself."""

import ast
import json
from collections.abc import Mapping
from typing import Any

_PYTHON = {"True": True, "False": False, "None": None}


class NoValue(ValueError):
    """A text that is no literal."""


def takes_text(schema: Mapping[str, Any], key: str) -> bool:
    """Whether a parameter is certainly a string, so that its text is its value.

    Args:
        schema: of the tool's parameters.
        key: the parameter.
    """
    found = schema.get("properties")
    described = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(described, Mapping):
        return False
    options = described.get("enum")
    if isinstance(options, list) and options:
        return all(isinstance(option, str) for option in options)
    return described.get("type") == "string" or isinstance(described.get("const"), str)


def typed_value(text: str, schema: Mapping[str, Any], key: str) -> str:
    """JSON text of a value that was written bare: JSON or a Python literal where it is one, else a string."""
    if not takes_text(schema, key):
        try:
            return literal(text)
        except NoValue:
            pass
    return json.dumps(text, ensure_ascii=False)


def literal(text: str) -> str:
    """JSON text of a JSON or Python literal.

    Raises:
        NoValue: it is neither.
    """
    text = text.strip()
    try:
        if text in _PYTHON:
            return json.dumps(_PYTHON[text])
        try:
            value = json.loads(text, parse_constant=_refused)
        except ValueError:
            value = ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise NoValue(text[:40]) from error


def _refused(name: str) -> object:
    raise ValueError(name)
