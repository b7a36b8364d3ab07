"""What a chat template tells of a model's format: it renders conversations made for this, and the texts are compared.

The idea is llama.cpp's (its automatic tool-call parser): one analysis instead of one parser for each model. What is
found counts only if the reader made of it reads the probes back; otherwise nothing is said of calls.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cadran.errors import UserError
from cadran.serve.asked import Tool
from cadran.serve.tools.call_analysis import Sample, analysed, common, tag_starts
from cadran.serve.tools.call_syntax import CallSyntax, Reasoning, units
from cadran.serve.tools.marked_reader import MarkedReader
from cadran.serve.tools.output_reader import Argued, Called, Hung, Piece, Said
from cadran.tokenizer.chat_template import ChatTemplate

_NOW = datetime(2001, 2, 3)
_CONTENT, _THOUGHT, _QUESTION, _SYSTEM = "Quokka answers.", "Quetzal thinks.", "Quagga asks?", "Quoll rules."
_USER = {"role": "user", "content": _QUESTION}
_LONG = "call_0123456789abcdef01234567"
_IDS = ("idprobeaa", "idprobebb")  # some templates want nine letters

_SCHEMA = {
    "type": "object",
    "properties": {
        "kalpha": {"type": "string", "description": "one"},
        "kbeta": {"type": "string", "description": "two"},
        "count": {"type": "integer", "description": "three"},
        "flag": {"type": "boolean", "description": "four"},
        "nested": {"type": "object", "description": "five", "properties": {}},
        "items": {"type": "array", "description": "six", "items": {}},
    },
    "required": [],
}
_TOOLS = (Tool("zeta_probe", "first probe", _SCHEMA), Tool("theta_probe", "second probe", _SCHEMA))
_ONE = Sample("zeta_probe", {"kalpha": "vuno", "kbeta": "vdue"}, _IDS[0])
_TWO = Sample("theta_probe", {"kalpha": "vtre", "kbeta": "vquattro"}, _IDS[1])
_ODD = Sample(
    "zeta_probe",
    {"kalpha": 'a "quoted" {brace} \\ back', "count": -3, "flag": True, "nested": {"a": [1, {"b": "}"}]}, "items": []},
    _IDS[0],
)
_EMPTY = Sample("theta_probe", {}, _IDS[1])


@dataclass(frozen=True, slots=True)
class Derived:
    """What a template tells.

    Attributes:
        syntax: how calls are written; None where the template does not know tools or was not understood.
        reasoning: the marks of reasoning.
        shows_tools: the template describes the tools to the model.
        text_arguments: the template wants arguments as JSON text, not as an object.
        short_ids: it wants ids of nine letters and digits.
        takes_system: it writes system messages.
        call_ends: what it writes after an answer with calls in place of the usual end of a turn.
    """

    syntax: CallSyntax | None = None
    reasoning: Reasoning | None = None
    shows_tools: bool = False
    text_arguments: bool = False
    short_ids: bool = False
    takes_system: bool = True
    call_ends: str = ""


def derive(template: ChatTemplate) -> Derived:
    """Probe a template. Never raises: a template that refuses a probe does not know what was probed."""
    probe = _Probe(template)
    derived = Derived(reasoning=probe.reasoning(), takes_system=probe.takes_system())
    # Where it takes arguments as an object it means objects, also where it would write a text as it is.
    for text_arguments in (False, True) if probe.refuses(_ONE, False) else (False,):
        found = probe.calls(text_arguments)
        if found is not None:
            syntax, ends = found
            return replace(
                derived, syntax=syntax, call_ends=ends, text_arguments=text_arguments, shows_tools=probe.shows_tools(),
                short_ids=probe.refuses(replace(_ONE, id=_LONG), text_arguments),
            )  # fmt: skip
    return derived


class _Probe:
    """Renders probes.

    Args:
        template: that is probed.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    def _text(
        self, *messages: Mapping[str, Any], tools: bool = False, prompt: bool = False, **variables: Any
    ) -> str | None:
        shown = [tool.to_template() for tool in _TOOLS] if tools else None
        try:
            return self._template.render(messages, shown, prompt, _NOW, **variables)
        except UserError:
            return None

    def takes_system(self) -> bool:
        text = self._text({"role": "system", "content": _SYSTEM}, _USER)
        return text is not None and _SYSTEM in text

    def shows_tools(self) -> bool:
        text = self._text(_USER, tools=True, prompt=True) or ""
        return all(tool.name in text and tool.description in text for tool in _TOOLS)

    def refuses(self, sample: Sample, text_arguments: bool) -> bool:
        return self._text(_USER, _answer([sample], text_arguments), tools=True) is None

    def reasoning(self) -> Reasoning | None:
        """The marks, found beside a thought that the template writes, takes away or opens an answer with."""
        before = self._text(_USER) or ""
        answer = {"role": "assistant", "content": _CONTENT}
        text = self._text(_USER, answer | {"reasoning_content": _THOUGHT}) or ""
        if 0 <= text.find(_THOUGHT) < text.find(_CONTENT):
            head, _, rest = text[common(text, before) :].partition(_THOUGHT)
            return _marks(head, rest.partition(_CONTENT)[0], text)
        opened = re.search(r"(<[^<>/\s]*think[^<>\s]*>|\[THINK\])\s*$", self._text(_USER, prompt=True) or "")
        if opened:
            return Reasoning(opened[1], f"{opened[1][0]}/{opened[1][1:]}")
        text = self._text(_USER, answer | {"content": f"<think>\n{_THOUGHT}\n</think>\n\n{_CONTENT}"}, _USER) or ""
        return Reasoning("<think>", "</think>") if _CONTENT in text and _THOUGHT not in text else None

    def calls(self, text_arguments: bool) -> tuple[CallSyntax, str] | None:
        """The syntax of calls that the template writes, and how it ends such a turn; None if it is not understood."""
        one = self._part([_ONE], text_arguments)
        if one is None:
            return None
        two = self._part([_ONE, _TWO], text_arguments)
        syntax = analysed(one[0], _ONE, None if two is None else (two[0], _TWO))
        if syntax is None or not self._reads_back(syntax, text_arguments):
            return None
        return syntax, one[1]

    def _part(self, samples: Sequence[Sample], text_arguments: bool, content: str = "") -> tuple[str, str] | None:
        """What the assistant writes for calls, and what follows it in place of the usual end of a turn."""
        text = self._text(_USER, _answer(samples, text_arguments, content), tools=True)
        plain = self._text(_USER, {"role": "assistant", "content": _CONTENT}, tools=True)
        opened = self._text(_USER, tools=True, prompt=True)
        if text is None or plain is None or opened is None or _CONTENT not in plain:
            return None
        # Some templates open an answer in any case.
        before = self._text(_USER, tools=True) or ""
        opening = opened[common(opened, before) :]
        if opening and text.endswith(opening) and plain.endswith(opening):
            text, plain = text.removesuffix(opening), plain.removesuffix(opening)
        head, _, tail = plain.rpartition(_CONTENT)
        start = tag_starts(text, common(text, head))
        if text.startswith(opened):
            start = max(start, len(opened))
        ends = [unit for unit in units(tail) if unit.startswith("<")]
        stops = [stop for unit in ends if (stop := text.find(unit, start)) >= 0]
        if stops:  # the usual end, perhaps with more after it
            return text[start : min(stops)].lstrip(), ""
        if tail and not ends and text.endswith(tail):
            return text[start : len(text) - len(tail)].lstrip(), ""
        ending = re.search(r"<[^<>\s]+>\s*$", text[start:]) if ends else None
        if ending is None:
            return text[start:].strip(), ""
        return text[start : start + ending.start()].lstrip(), ending[0].strip()

    def _reads_back(self, syntax: CallSyntax, text_arguments: bool) -> bool:
        cases: list[tuple[list[Sample], str]] = [([_ONE], ""), ([_ODD], ""), ([_EMPTY], ""), ([_ONE], _CONTENT)]
        if syntax.separator is not None:
            cases += [([_ONE, _EMPTY, _TWO], ""), ([_ODD, _TWO], _CONTENT)]
        for samples, content in cases:
            if content and not syntax.triggers:  # only an answer that begins with a call is read as one
                continue
            part = self._part(samples, text_arguments, content)
            if part is None:
                return False
            reader = MarkedReader(syntax, _TOOLS)
            pieces = [*reader.push(part[0]), *reader.end()]
            said = "".join(piece.text for piece in pieces if isinstance(piece, Said)).strip()
            if calls_of(pieces) != [(sample.name, sample.arguments) for sample in samples]:
                return False
            if content not in said and content in part[0]:
                return False
            if not content and said:
                return False
        return True


def calls_of(pieces: Sequence[Piece]) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the complete calls among the pieces of an answer."""
    found, name, text = [], "", ""
    for piece in pieces:
        match piece:
            case Called(called):
                name, text = called, ""
            case Argued(fragment):
                text += fragment
            case Hung():
                found.append((name, json.loads(text)))
            case _:
                pass
    return found


def _answer(samples: Sequence[Sample], text_arguments: bool, content: str = "") -> dict[str, Any]:
    calls = [sample.to_template(text_arguments) for sample in samples]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _marks(head: str, between: str, text: str) -> Reasoning | None:
    """The tag that ends the head and the one that begins the rest, if they are marks of reasoning alone."""
    opened = re.search(r"(<[^<>\s]+>|\[[\w/]+\])\s*$", head)
    closed = re.match(r"\s*(<[^<>\s]+>|\[[\w/]+\])", between)
    if opened is None or closed is None or text.count(opened[1]) != 1 or text.count(closed[1]) != 1:
        return None
    return Reasoning(opened[1], closed[1])
