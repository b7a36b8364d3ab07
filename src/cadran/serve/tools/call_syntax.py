"""How a model writes tool calls: the marks around them and between their parts.

A mark is kept as the template wrote it, white space included, for writing; for reading its white space does not count,
because models are careless about it. ``WILD`` in a mark stands for an id or a number that differs from call to call.
"""

import re
from dataclasses import dataclass
from typing import Literal

WILD = "\ue000"

_UNIT = re.compile(r"<[^<>\s]+>?|\[[\w/]+\]?|[^\s<\[]+|\S")

Style = Literal[
    "object",  # one JSON object with the name and the arguments in it
    "tagged",  # the name between marks, then the arguments as a JSON object
    "parameters",  # the name between marks, then every argument between marks of its own
    "pythonic",  # name(key=value, ...)
]


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One section of calls reads ``section_open``, calls with ``separator`` between them, ``section_close``; one call
    ``call_open``, the head, the name, ``after_name``, the arguments, the tail, ``call_close``.

    Attributes:
        style: how name and arguments are written.
        section_open: before the first call.
        call_open: before each.
        head: of an object, up to the name.
        after_name: between the name and the arguments.
        tail: of an object, from the end of the arguments.
        call_close: after each call.
        separator: between two; None where one answer has one call at most.
        section_close: after the last call.
        name_path: of an object: the keys that lead to the name.
        arguments_path: the same to the arguments.
        quoted: the arguments of an object are JSON inside a string.
        key_open: before the name of a parameter.
        after_key: between it and its value.
        value_close: after the value.
    """

    style: Style
    section_open: str = ""
    call_open: str = ""
    head: str = ""
    after_name: str = ""
    tail: str = ""
    call_close: str = ""
    separator: str | None = ""
    section_close: str = ""
    name_path: tuple[str, ...] = ("name",)
    arguments_path: tuple[str, ...] = ("arguments",)
    quoted: bool = False
    key_open: str = ""
    after_key: str = ""
    value_close: str = ""

    @property
    def triggers(self) -> tuple[str, ...]:
        """What in a text announces calls; empty where only an answer that begins with one can be a call."""
        first, again = (first_unit(mark) for mark in (self.section_open or self.call_open, self.call_open))
        # Some models leave the mark of the section out; a mere word would announce too much.
        found = (first, again if again[:1] in ("<", "[") else first)
        return tuple(dict.fromkeys(unit for unit in found if re.search(r"\w", unit)))

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark, for finding the special tokens in them."""
        return (
            self.section_open, self.call_open, self.head, self.after_name, self.tail, self.call_close,
            self.separator or "", self.section_close, self.key_open, self.after_key, self.value_close,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The marks around what a model thinks before it answers."""

    open: str
    close: str


HERMES = CallSyntax(
    "object",
    call_open="<tool_call>\n",
    head='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    call_close="\n</tool_call>",
    separator="\n",
)
"""For models whose template says nothing of calls; described to them in the system message."""


def compact(mark: str) -> str:
    """A mark without its white space."""
    return "".join(mark.split())


def first_unit(mark: str) -> str:
    """The first tag or word of a mark; "" of an empty one."""
    found = _UNIT.search(mark)
    return found[0] if found else ""


def units(mark: str) -> list[str]:
    """A mark cut into tags, words and white space, nothing left out."""
    cut: list[str] = []
    place = 0
    for match in _UNIT.finditer(mark):
        if match.start() > place:
            cut.append(mark[place : match.start()])
        cut.append(match[0])
        place = match.end()
    return [*cut, mark[place:]] if place < len(mark) else cut
