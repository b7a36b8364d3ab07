"""Grammars that contain themselves so that nothing finite fits them: an answer would never end.

Both tests look for the smallest set of parts that something finite fits, growing it until it grows no more. They say
"endless" only where that is sure; what they cannot read they let pass, and the limit of tokens ends the answer.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from cadran.errors import UserError

_MOST_ROUNDS = 12  # parts that need more are taken to be finite
_DONE = re.compile(r"^\s*%(?:llguidance|ignore|import)\b.*$", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?|/(?:\\.|[^/\\\n])+/[a-z]*|<[^<>\s]*>)
    |(?P<inline>%(?:json|regex)\s*)
    |(?P<name>[?!]?[A-Za-z_][\w-]*)
    |(?P<times>\{[\d\s,]*\}|[*+?]|~\s*\d+(?:\.\.\d+)?)
    |(?P<sign>[:|()\[\]=,]|\d+)""",
    re.VERBOSE,
)


def schema_is_endless(schema: dict[str, Any], most_properties: int) -> bool:
    """Whether every value of a JSON Schema would have to contain another one, for ever.

    Args:
        schema: a parsed schema, nested less than a hundred times or so.
        most_properties: that an object may name.

    Raises:
        UserError: an object names more properties.
    """
    pointers: set[str] = set()
    for part in _parts(schema):
        named = part.get("properties")
        if isinstance(named, dict) and len(named) > most_properties:
            raise UserError(f"an object of the schema has {len(named)} properties and {most_properties} are taken")
        if isinstance(part.get("$ref"), str):
            pointers.add(part["$ref"])
    targets = {pointer: _target(schema, pointer) for pointer in pointers}
    finite = {pointer for pointer, target in targets.items() if target is None}
    for _ in range(_MOST_ROUNDS):
        more = {pointer for pointer in pointers - finite if _fits_something(targets[pointer], finite)}
        if not more:
            return not _fits_something(schema, finite)
        finite |= more
    return False


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _target(schema: dict[str, Any], pointer: str) -> Any:
    """What a reference names; None when it is not a place in this schema."""
    if not pointer.startswith("#") or (len(pointer) > 1 and pointer[1] != "/"):
        return None
    node: Any = schema
    for step in pointer.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return None
    return node


def _fits_something(schema: Any, finite: set[str]) -> bool:
    """Whether something finite fits, when it does for the references in ``finite``."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if isinstance(schema.get("$ref"), str) and schema["$ref"] not in finite:
        return False
    for keyword in ("anyOf", "oneOf"):
        options = schema.get(keyword)
        if isinstance(options, list) and not any(_fits_something(option, finite) for option in options):
            return False
    every = schema.get("allOf")
    if isinstance(every, list) and not all(_fits_something(part, finite) for part in every):
        return False
    if "const" in schema or "enum" in schema:
        return True
    kinds = schema.get("type")
    named = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else ["string"]
    return any(
        _object_fits(schema, finite) if kind == "object" else _array_fits(schema, finite) if kind == "array" else True
        for kind in named
    )


def _object_fits(schema: Mapping[str, Any], finite: set[str]) -> bool:
    named, required = schema.get("properties"), schema.get("required")
    if not isinstance(named, dict) or not isinstance(required, list):
        return True
    return all(_fits_something(named[name], finite) for name in required if isinstance(name, str) and name in named)


def _array_fits(schema: Mapping[str, Any], finite: set[str]) -> bool:
    least, first = schema.get("minItems"), schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    if not isinstance(least, int):
        return True
    rest = least <= len(first) or _fits_something(schema.get("items"), finite)
    return rest and all(_fits_something(item, finite) for item in first[: max(least, 0)])


def rules_are_endless(lark: str) -> bool:
    """Whether every text that the rule ``start`` derives would be infinitely long.

    Args:
        lark: rules in Lark's syntax.
    """
    try:
        rules = _rules(_DONE.sub("", lark))
        finite: set[str] = set()
        for round in range(_MOST_ROUNDS):
            before = len(finite)
            for name in reversed(rules) if round % 2 == 0 else rules:
                if name not in finite and _Body(rules, name, finite).fits():
                    finite.add(name)
            if len(finite) == before:
                return "start" in rules and "start" not in finite
    except (ValueError, RecursionError):
        pass  # not written as expected here: the library says what is wrong, if anything is
    return False


def _rules(lark: str) -> dict[str, list[str]]:
    """Tokens of each rule's right side; "" stands for anything that is text.

    Raises:
        ValueError: something else is written there.
    """
    tokens: list[str] = []
    place = 0
    while place < len(lark):
        match = _TOKEN.match(lark, place)
        if match is None:
            raise ValueError(lark[place : place + 20])
        place = match.end()
        if match.lastgroup == "inline":
            place = json.JSONDecoder().raw_decode(lark, place)[1]
        if match.lastgroup != "blank":
            tokens.append("" if match.lastgroup in ("text", "inline") else match[0].lstrip("?!") or match[0])
    heads = [(_head(tokens, place), place) for place, token in enumerate(tokens) if token == ":"]
    ends = [start for start, _ in heads[1:]] + [len(tokens)]
    return {tokens[start]: tokens[colon + 1 : end] for (start, colon), end in zip(heads, ends, strict=True)}


def _head(tokens: list[str], colon: int) -> int:
    """Where the name of a rule is, which may have options in brackets after it."""
    start = colon - 1
    if start >= 0 and tokens[start] == "]":
        while start >= 0 and tokens[start] != "[":
            start -= 1
        start -= 1
    if start < 0:
        raise ValueError("a rule without a name")
    return start


class _Body:
    """The right side of a rule: alternatives of sequences of parts, each of them perhaps repeated."""

    def __init__(self, rules: dict[str, list[str]], name: str, finite: set[str]) -> None:
        self._rules, self._tokens, self._finite = rules, rules[name], finite
        self._place = 0

    def fits(self) -> bool:
        found = self._alternatives()
        if self._place < len(self._tokens):
            raise ValueError(self._tokens[self._place])
        return found

    def _alternatives(self) -> bool:
        found = self._sequence()
        while self._next() == "|":
            self._place += 1
            found = self._sequence() or found
        return found

    def _sequence(self) -> bool:
        found = True
        while (token := self._next()) not in (None, "|", ")", "]"):
            self._place += 1
            assert token is not None
            fits = self._group(token) if token in ("(", "[") else self._one(token)
            times = self._next()
            if times and times[0] in "*+?{~":
                self._place += 1
                fits = fits or times in ("*", "?") or re.match(r"[{~]\s*0*(,|\.\.|\}|$)", times) is not None
            found = fits and found
        return found

    def _group(self, opening: str) -> bool:
        found = self._alternatives()
        if self._next() != {"(": ")", "[": "]"}[opening]:
            raise ValueError(opening)
        self._place += 1
        return found or opening == "["

    def _one(self, token: str) -> bool:
        if token and not re.match(r"[A-Za-z_]", token):
            raise ValueError(token)
        return token not in self._rules or token in self._finite

    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None
