"""Grammars for prescribed calls, and for a prescribed form of the answer after the model's reasoning.

They are written in the Lark dialect of ``llguidance``: ``%json`` embeds a schema, ``%lark`` a grammar, ``<[7]>`` is the
special token of that id, and a rule with ``suffix`` takes everything up to its first occurrence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cadran.engine.grammars.complaint import complaint
from cadran.engine.grammars.source import parsed_schema, schema_grammar
from cadran.errors import UserError
from cadran.serve.asked import Tool
from cadran.serve.tools.argument_value import takes_text
from cadran.serve.tools.call_syntax import WILD, CallSyntax, Reasoning, units
from cadran.tokenizer.tokenizer import Tokenizer

_MOST_CALLS = 16  # of one answer that must call: a model without sense would never stop
_SHARED = ("$defs", "definitions")


class OutputGrammar:
    """Writes grammars for one model.

    Args:
        tokenizer: whose special tokens stand in marks.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def special_ids(self, marks: Sequence[str]) -> frozenset[int]:
        """The special tokens among the marks, which must appear in the text to be seen."""
        found = (self._special(unit) for mark in marks for unit in units(mark))
        return frozenset(id for id in found if id is not None)

    def whole(self, body: str, rules: Sequence[str], reasoning: Reasoning | None, thinking: bool) -> str:
        """A grammar in Lark.

        Args:
            body: what the answer is.
            rules: that it uses.
            reasoning: marks of the reasoning that may stand before it; None where none may.
            thinking: the answer begins within reasoning.
        """
        lines = list(rules)
        start = f"({body})"
        if reasoning is not None:
            lines += self._up_to("thought", reasoning.close)
            head = "thought" if thinking else f"({self.literal(reasoning.open)} thought)?"
            start = f"{head} /[ \\n]{{0,3}}/ {start}"
        return "\n".join([f"start: {start}", *lines]) + "\n"

    def calls(self, syntax: CallSyntax, tools: Sequence[Tool], several: bool) -> tuple[str, list[str]]:
        """Calls of some of the tools, with arguments that fit their schemas.

        Args:
            syntax: how they are written.
            tools: that may be called.
            several: whether one answer may call more than once.

        Raises:
            UserError: the schema of a tool cannot be enforced.
        """
        rules = [rule for number, tool in enumerate(tools) for rule in self._call(f"call_{number}", syntax, tool)]
        rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
        body = "call"
        if several and syntax.separator is not None:
            again = f"{self.literal(syntax.separator)} call".strip()
            body = f"call ({again}){{0,{_MOST_CALLS - 1}}}"
        return f"{self.literal(syntax.section_open)} {body} {self.literal(syntax.section_close)}".strip(), rules

    def answer(self, grammar: Mapping[str, Any]) -> str | None:
        """A prescribed form of the answer as part of a larger grammar; None for one that cannot be.

        Raises:
            UserError: it is not what it says.
        """
        match dict(grammar):
            case {"json_schema": schema, **rest} if not rest:
                return _json(schema)
            case {"json_object": True, **rest} if not rest:
                return _json({"type": "object"})
            case {"regex": str(pattern), **rest} if not rest:
                return f"/{_slashed(pattern)}/"
            case {"choice": [*texts], **rest} if not rest and texts and all(isinstance(text, str) for text in texts):
                return " | ".join(_text(text) for text in dict.fromkeys(texts))
        return None

    def literal(self, mark: str) -> str:
        """A mark as terms of a rule."""
        terms: list[str] = []
        plain = ""
        for unit in [*units(mark), ""]:
            id = self._special(unit)
            if id is None and unit:
                plain += unit
                continue
            for number, part in enumerate(plain.split(WILD)) if plain else ():
                terms += ["/[A-Za-z0-9]{1,9}/"] if number else []
                terms += [_text(part)] if part else []
            plain = ""
            terms += [f"<[{id}]>"] if id is not None else []
        return " ".join(terms)

    def _special(self, unit: str) -> int | None:
        if not unit or unit.isspace():
            return None
        ids = self._tokenizer.encode(unit, special=True)
        return ids[0] if len(ids) == 1 and self._tokenizer.is_special(ids[0]) else None

    def _up_to(self, name: str, mark: str) -> list[str]:
        """A rule for any text up to a mark, and the mark."""
        if self.special_ids([mark]):
            return [f"{name}: /(?s:.)*/ {self.literal(mark)}"]
        return [f"{name}[suffix={_text(mark)}]: /(?s:.)*/"]

    def _call(self, rule: str, syntax: CallSyntax, tool: Tool) -> list[str]:
        schema = _closed(tool.parameters)
        name = json.dumps(tool.name, ensure_ascii=False)[1:-1] if syntax.style == "object" else tool.name
        head = f"{self.literal(syntax.call_open + syntax.head)} {_text(name)}"
        rest = f"{self.literal(syntax.tail)} {self.literal(syntax.call_close)}"
        match syntax.style:
            case "parameters":
                arguments, rules = self._parameters(rule, syntax, schema)
            case "pythonic":
                arguments, rules = _keywords(schema), []
            case _ if not _properties(schema) and schema.get("additionalProperties") is False and not syntax.quoted:
                arguments, rules = '"{}"', []
            case _:
                arguments, rules = _json({"type": "string"} if syntax.quoted else schema), []
        return [f"{rule}: {head} {self.literal(syntax.after_name)} {arguments} {rest}", *rules]

    def _parameters(self, rule: str, syntax: CallSyntax, schema: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Every argument between its marks, in the order of the schema."""
        terms, rules = [], []
        required = schema.get("required") or ()
        for number, (key, part) in enumerate(_properties(schema)):
            name, closed = f"{rule}_{number}", self.literal(syntax.value_close)
            if takes_text(schema, key):
                options = part.get("enum") or ([part["const"]] if "const" in part else [])
                if options:
                    value = f"({' | '.join(_text(option) for option in options)}) {closed}"
                else:
                    rules += self._up_to(f"{name}_text", syntax.value_close)
                    value = f"{name}_text"
            else:
                value = f"{_json(_with_shared(part, schema))} {closed}"
            rules.append(
                f"{name}: {self.literal(syntax.key_open)} {_text(key)} {self.literal(syntax.after_key)} {value}"
            )
            terms.append(name if key in required else f"({name})?")
        return " ".join(terms), rules


def _keywords(schema: Mapping[str, Any]) -> str:
    """``(key=value, ...)``: those that are required first, then any of the others."""
    required = set(schema.get("required") or ())
    parts = [(key, f"{_text(key + '=')} {_json(_with_shared(part, schema))}") for key, part in _properties(schema)]
    needed = [term for key, term in parts if key in required]
    further = [term for key, term in parts if key not in required]
    if needed:
        inside = ' ", " '.join(needed) + "".join(f' (", " {term})?' for term in further)
    else:
        starts = (
            term + "".join(f' (", " {later})?' for later in further[number + 1 :])
            for number, term in enumerate(further)
        )
        inside = f"({' | '.join(starts)})?" if further else ""
    return f'"(" {inside} ")"'


def _properties(schema: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = schema.get("properties")
    if not isinstance(found, Mapping):
        return []
    return [(str(key), dict(part) if isinstance(part, Mapping) else {}) for key, part in found.items()]


def _with_shared(part: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a schema that stands alone: what it may refer to goes with it."""
    return {**part, **{key: schema[key] for key in _SHARED if key in schema}}


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of arguments: an object, without further properties unless it says that there may be some."""
    schema = {**parameters}
    schema.setdefault("type", "object")
    if not {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"} & set(schema):
        schema.setdefault("properties", {})
        schema["additionalProperties"] = False
    return schema


def _json(schema: object) -> str:
    """A schema embedded.

    Raises:
        UserError: it is none, is nested too deeply, or nothing finite fits.
    """
    if not isinstance(schema, (Mapping, str, bool)):
        raise UserError(f"the schema is a {type(schema).__name__}; give a JSON object")
    try:
        whole = json.loads(schema_grammar(*parsed_schema(schema)))
    except ValueError as error:
        problem = f"this JSON schema cannot be enforced: {complaint(str(error))}; change or leave out that part"
        raise UserError(problem) from error
    return f"%json {json.dumps(whole['grammars'][0]['json_schema'])}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _slashed(pattern: str) -> str:
    r"""A regular expression between slashes: those in it that no backslash precedes get one."""
    return re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern, flags=re.DOTALL).replace("\n", r"\n")
