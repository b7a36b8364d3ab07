"""A prescribed JSON schema as programs mean it: an object has the properties that are listed, and no others.

JSON Schema lets an object have any further ones unless ``additionalProperties`` says no, and a small model that may go
on does not stop. Programs leave the word out and expect just their fields, as other servers of local models give them.
Every answer that is left fits the schema as it was written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "contains")

_JOINED = {"$ref", "$dynamicRef", "anyOf", "oneOf", "allOf"}
"""What describes the same object as the properties beside it."""

_INDIRECT = {"not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties", "patternProperties"}
"""What reads an object a second time, so that a closed one could mean something else."""


def closed_grammar(grammar: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What an answer must match, with its schema closed, if it is one.

    Args:
        grammar: as ``GenerateRequest.grammar``.
    """
    schema = (grammar or {}).get("json_schema")
    if grammar is None or not isinstance(schema, Mapping):
        return grammar
    try:
        parts = list(_parts(schema))
        return {**grammar, "json_schema": schema if any(map(_joined, parts)) else _closed(schema)}
    except RecursionError:  # the grammar's own limit speaks of it
        return grammar


def _joined(schema: Mapping[str, Any]) -> bool:
    """Whether several parts describe the same object: then none of them knows all of its properties."""
    all_of = schema.get("allOf")
    if _INDIRECT & set(schema) or (isinstance(all_of, list) and len(all_of) > 1):
        return True
    return "properties" in schema and bool(_JOINED & set(schema))


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema and all those within it."""
    yield schema
    for key in _NAMED:
        for part in found.values() if isinstance(found := schema.get(key), Mapping) else ():
            yield from _parts(part) if isinstance(part, Mapping) else ()
    for key in _LISTED:
        for part in found if isinstance(found := schema.get(key), list) else ():
            yield from _parts(part) if isinstance(part, Mapping) else ()
    for key in _SINGLE:
        if isinstance(part := schema.get(key), Mapping):
            yield from _parts(part)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    told = dict(schema)
    for key in _NAMED:
        if isinstance(found := told.get(key), Mapping):
            told[key] = {name: _closed(part) for name, part in found.items()}
    for key in {*_LISTED, *_SINGLE} & set(told):
        found = told[key]
        told[key] = [_closed(part) for part in found] if isinstance(found, list) else _closed(found)
    listed, required = told.get("properties"), told.get("required", [])
    known = isinstance(listed, Mapping) and isinstance(required, list) and all(name in listed for name in required)
    if known and listed and "minProperties" not in told:
        told.setdefault("additionalProperties", False)
    return told
