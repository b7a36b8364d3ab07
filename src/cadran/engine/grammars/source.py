"""From what the asker wrote to the form in which the grammar library reads it: checked, limited, not yet compiled."""

import json
import re
from collections.abc import Mapping
from typing import Any

from cadran.engine.grammars.complaint import complaint
from cadran.engine.grammars.endless import rules_are_endless, schema_is_endless
from cadran.errors import UserError

_MOST_CHARACTERS = 1 << 18  # of a grammar; the worst ones of this size take about a second
_MOST_PROPERTIES = 1000  # of one object; the work grows with the square
_WHITE_SPACE = "[ \n]"  # at most one between two parts of a JSON text: unbounded, small models never stop adding some


def bounded(kind: str, text: str) -> str:
    """A text that is safe to hand on.

    Raises:
        UserError: it is no text, too long, or not to be written in UTF-8.
    """
    if not isinstance(text, str):
        raise UserError(f"the {kind} is not a text but {type(text).__name__}; give a string")
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"the {kind} has {len(text)} characters and {_MOST_CHARACTERS} are taken; make it shorter")
    if half := re.search("[\ud800-\udfff]", text):
        raise UserError(f"the {kind} holds half of a surrogate pair at character {half.start()}; repair its encoding")
    return text


def parsed_schema(schema: Mapping[str, Any] | str | bool) -> tuple[dict[str, Any], str]:
    """A schema as a dictionary of JSON values and as JSON, in the order in which it was written.

    Raises:
        UserError: it is no schema, or ``false``.
    """
    try:
        content = json.loads(bounded("JSON schema", schema if isinstance(schema, str) else json.dumps(schema)))
        if isinstance(content, dict):
            content.pop("x-guidance", None)  # settings of the library, which are not the asker's to change
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the schema is not JSON ({complaint(str(error))}); give a JSON object") from error
    if content is False:
        raise UserError("nothing fits the JSON schema false; loosen what it demands")
    if content is True:
        return {}, "{}"
    if not isinstance(content, dict):
        raise UserError(f"the schema is a JSON {type(content).__name__}; give a JSON object")
    return content, bounded("JSON schema", text)


def schema_grammar(schema: dict[str, Any], text: str) -> str:
    """The library's form of a schema.

    Args:
        schema: as ``parsed_schema`` gives it.
        text: the same as JSON.

    Raises:
        UserError: an object has too many properties, or nothing finite fits.
        ValueError: it is nested too deeply.
    """
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(
        text,
        overrides={
            "item_separator": ",",
            "key_separator": ":",
            "whitespace_flexible": True,
            "whitespace_pattern": _WHITE_SPACE,
            "coerce_one_of": False,
            "lenient": False,
        },
    )
    if schema_is_endless(schema, _MOST_PROPERTIES):
        raise UserError("nothing finite fits this JSON schema, which contains itself; make a property of it optional")
    return grammar


def rules_grammar(text: str) -> str:
    """The library's form of a grammar in GBNF or Lark.

    Raises:
        UserError: nothing finite fits.
        Exception: it is not GBNF (the library's translation raises nothing better).
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

    gbnf = re.search(r"^[ \t]*[\w-]+\s*::=", text, re.MULTILINE)
    lark = gbnf_to_lark(_characters(text)) if gbnf else text
    if rules_are_endless(lark):
        raise UserError("nothing finite fits this grammar, whose first rule always needs itself; give it an end")
    return LLMatcher.grammar_from_lark(lark)


def _characters(gbnf: str) -> str:
    r"""The same with ``\u00e9`` as the character itself, which the library's translation garbles."""

    def character(match: re.Match[str]) -> str:
        digits = match[1] or match[2]
        code = int(digits, 16) if digits else -1
        if not 0 <= code <= 0x10FFFF or 0xD800 <= code < 0xE000:
            return match[0]
        return chr(code) if code >= 0x80 else f"\\x{code:02x}"

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", character, gbnf, flags=re.DOTALL)
