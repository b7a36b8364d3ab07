"""Calls read character by character: the part of ``MarkedReader`` that knows the styles of ``CallSyntax``.

A call is told once its name is known to be a tool's and its arguments begin; what goes wrong before that is text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cadran.serve.asked import Tool
from cadran.serve.tools.argument_value import NoValue, literal, takes_text, typed_value
from cadran.serve.tools.call_syntax import CallSyntax, compact, first_unit
from cadran.serve.tools.character_feed import CharacterFeed, Malformed, Reading
from cadran.serve.tools.json_reading import nothing, read_string, read_value
from cadran.serve.tools.output_reader import Called, Hung

_LONGEST_KEY = 256
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass
class _Found:
    """What an object held so far: the name, and the arguments where they came before it."""

    name: str | None = None
    early: list[str] = field(default_factory=list)
    argued: bool = False


class CallReader:
    """Reads the calls of one answer.

    Args:
        feed: the text.
        syntax: how they are written.
        tools: that may be called; other names are no calls.
    """

    def __init__(self, feed: CharacterFeed, syntax: CallSyntax, tools: Sequence[Tool]) -> None:
        self._feed, self._syntax = feed, syntax
        self._schemas: Mapping[str, Mapping[str, object]] = {tool.name: tool.parameters for tool in tools}
        self._bare = not syntax.triggers
        self._argument_keys = {syntax.arguments_path[-1], "arguments", "parameters"}
        self._after_name = compact(syntax.after_name)
        self._closing = compact(syntax.call_close) or compact(syntax.section_close)
        self.committed = False

    def section(self) -> Reading[None]:
        """A section of calls, from its first mark.

        Raises:
            Malformed: what comes is no call; what was read and not told is in the feed's ``raw``.
        """
        self.committed = False
        syntax, feed = self._syntax, self._feed
        section_open, call_open = compact(syntax.section_open), compact(syntax.call_open)
        inside = bool(section_open and (yield from feed.match([section_open])))
        if call_open:
            if (yield from feed.match([call_open])) is None:
                raise Malformed
        elif section_open and not inside:
            raise Malformed
        while True:
            self.committed = False
            yield from self._call()
            feed.raw, self.committed = [], False
            if not (yield from self._another(call_open)):
                return

    def _another(self, call_open: str) -> Reading[bool]:
        """Whether a further call follows; its opening mark is read, and so are the marks that close this one."""
        syntax, feed = self._syntax, self._feed
        yield from feed.match([compact(syntax.call_close)], swallow=True)
        close = compact(syntax.section_close)
        if syntax.separator is None:
            yield from feed.match([close], swallow=True)
            return False
        opening = [mark for mark in dict.fromkeys((compact(syntax.separator) + call_open, call_open)) if mark]
        found = yield from feed.match([*opening, close], swallow=True)
        if found is not None:
            return found in opening
        if opening or syntax.style != "object":
            return False
        return (yield from feed.match(["{"], keep=True)) is not None

    def _call(self) -> Reading[None]:
        match self._syntax.style:
            case "object":
                yield from self._in_object()
            case "tagged":
                yield from self._tagged()
            case "parameters":
                yield from self._parameters()
            case "pythonic":
                yield from self._pythonic()

    def _begin(self, name: str) -> None:
        """Tell that a call begins."""
        if name not in self._schemas:
            raise Malformed
        self._feed.tell(Called(name))
        self.committed = True
        self._feed.raw = []

    def _in_object(self) -> Reading[None]:
        feed, found = self._feed, _Found()
        if (yield from feed.visible()) != "{":
            raise Malformed
        try:
            yield from self._members((), found)
        except Malformed:
            more = yield from feed.get()
            feed.back(more)
            if not (found.argued and self.committed and more):
                raise
            # Small models forget the last brace; the arguments are whole all the same.
            raw, feed.raw = feed.raw or [], []
            feed.back(raw)
        if not found.argued:
            if found.name is None or self._bare:
                raise Malformed
            self._begin(found.name)
            feed.argue("{}")
        elif not self.committed:
            raise Malformed  # arguments of nothing
        feed.tell(Hung())

    def _members(self, path: tuple[str, ...], found: _Found) -> Reading[None]:
        """The members of an object whose brace was read."""
        feed, syntax = self._feed, self._syntax
        character = yield from feed.visible()
        if character == "}":
            return
        while True:
            if character != '"':
                raise Malformed
            key = yield from read_string(feed, nothing)
            here = (*path, key)
            if (yield from feed.visible()) != ":":
                raise Malformed
            character = yield from feed.visible()
            if here == syntax.name_path and found.name is None:
                if character != '"':
                    raise Malformed
                yield from self._named((yield from read_string(feed, nothing)), found)
            elif path == syntax.arguments_path[:-1] and key in self._argument_keys and not found.argued:
                yield from self._argued(character, found)
            elif character == "{" and here == syntax.name_path[: len(here)]:
                yield from self._members(here, found)
            else:
                yield from read_value(feed, character, nothing)
            character = yield from feed.visible()
            if character == "}":
                return
            if character != ",":
                raise Malformed
            character = yield from feed.visible()

    def _named(self, name: str, found: _Found) -> Reading[None]:
        if name not in self._schemas:
            raise Malformed
        found.name = name
        if found.argued:
            self._begin(name)
            self._feed.argue("".join(found.early))
        return
        yield  # a reading like the others

    def _argued(self, first: str, found: _Found) -> Reading[None]:
        found_early = found.early.append
        if found.name is not None and first == "{":
            self._begin(found.name)
            yield from read_value(self._feed, first, self._feed.argue)
        else:
            if first == "{":
                yield from read_value(self._feed, first, found_early)
            elif first == '"':
                found_early(_object_text((yield from read_string(self._feed, nothing))))
            elif first == "n":
                yield from read_value(self._feed, first, nothing)
                found_early("{}")
            else:
                raise Malformed
            if found.name is not None:
                self._begin(found.name)
                self._feed.argue("".join(found.early))
        found.argued = True

    def _name(self) -> Reading[str]:
        """The name of a tool, as far as the text goes on like one."""
        name, character = "", (yield from self._feed.visible())
        while character and any(known.startswith(name + character) for known in self._schemas):
            name += character
            character = yield from self._feed.get()
        self._feed.back(character)
        if name not in self._schemas:
            raise Malformed
        return name

    def _tagged(self) -> Reading[None]:
        feed, name = self._feed, (yield from self._name())
        if self._after_name and (yield from feed.match([self._after_name])) is None:
            raise Malformed
        first = yield from feed.visible()
        if first == "{":
            self._begin(name)
            yield from read_value(feed, first, feed.argue)
        elif first == '"':
            text = _object_text((yield from read_string(feed, nothing)))
            self._begin(name)
            feed.argue(text)
        else:
            feed.back(first)
            if not self._closing or (yield from feed.match([self._closing], keep=True)) is None:
                raise Malformed
            self._begin(name)
            feed.argue("{}")
        feed.tell(Hung())

    def _parameters(self) -> Reading[None]:
        feed, syntax, name = self._feed, self._syntax, (yield from self._name())
        if self._after_name and (yield from feed.match([self._after_name])) is None:
            raise Malformed
        key_open = compact(syntax.key_open)
        if (yield from feed.match([key_open, self._closing], keep=True)) is None:
            raise Malformed
        self._begin(name)
        feed.argue("{")
        before = ""
        while (found := (yield from feed.match([key_open, self._closing]))) == key_open:
            key = yield from self._key()
            yield from self._value(before, name, key)
            before = ", "
        if found is None:
            raise Malformed
        feed.back(found)
        feed.argue("}")
        feed.tell(Hung())

    def _key(self) -> Reading[str]:
        feed, after = self._feed, compact(self._syntax.after_key)
        unit = compact(first_unit(self._syntax.after_key))
        key: list[str] = []
        if (yield from feed.until([unit], key.append)) is None:
            raise Malformed
        if after != unit and (yield from feed.match([after[len(unit) :]])) is None:
            raise Malformed
        text = "".join(key).strip()
        if not 0 < len(text) <= _LONGEST_KEY:
            raise Malformed
        return text

    def _value(self, before: str, name: str, key: str) -> Reading[None]:
        feed, syntax, schema = self._feed, self._syntax, self._schemas[name]
        head = f"{before}{json.dumps(key, ensure_ascii=False)}: "
        lines = _Lines(syntax.after_key.endswith("\n"), syntax.value_close.startswith("\n"))
        close = first_unit(syntax.value_close)
        if takes_text(schema, key):
            feed.argue(f'{head}"')
            feed.raw = None  # everything is told as it comes
            found = yield from feed.until([close], lambda text: feed.argue(_escaped(lines.pushed(text))))
            feed.raw = []
            if found is None:
                raise Malformed
            feed.argue('"')
        else:
            read: list[str] = []
            found = yield from feed.until([close], lambda text: read.append(lines.pushed(text)))
            if found is None:
                raise Malformed
            feed.argue(head + typed_value("".join(read), schema, key))
        rest = compact(syntax.value_close)[len(close) :]
        if rest:
            yield from feed.match([rest])

    def _pythonic(self) -> Reading[None]:
        feed, name = self._feed, (yield from self._name())
        if (yield from feed.visible()) != "(":
            raise Malformed
        character, before, opened = (yield from feed.visible()), "", False
        while character != ")":
            key = ""
            while character and (character.isalnum() or character == "_"):
                key += character
                character = yield from feed.get()
            if character.isspace():
                character = yield from feed.visible()
            if not key or character != "=":
                raise Malformed
            text, end = yield from self._python_value()
            try:
                value = literal(text)
            except NoValue as error:
                raise Malformed from error
            if not opened:
                self._begin(name)
                feed.argue("{")
                opened = True
            feed.argue(f"{before}{json.dumps(key)}: {value}")
            before = ", "
            character = (yield from feed.visible()) if end == "," else end
        if not opened:
            self._begin(name)
            feed.argue("{")
        feed.argue("}")
        feed.tell(Hung())

    def _python_value(self) -> Reading[tuple[str, str]]:
        """The text of a value, and the comma or bracket after it."""
        text, waiting, quote = "", [")"], ""
        while character := (yield from self._feed.get()):
            if quote:
                if character == "\\":
                    text += character
                    character = yield from self._feed.get()
                elif character == quote:
                    quote = ""
            elif character in "\"'":
                quote = character
            elif character in _CLOSING:
                waiting.append(_CLOSING[character])
            elif character == waiting[-1]:
                waiting.pop()
                if not waiting:
                    return text, character
            elif character == "," and len(waiting) == 1:
                return text, character
            text += character
        raise Malformed


class _Lines:
    """Leaves out the line break after the opening mark of a value and the one before its closing mark.

    Args:
        first: whether there is one at the beginning.
        last: whether there is one at the end.
    """

    def __init__(self, first: bool, last: bool) -> None:
        self._first, self._last, self._held = first, last, ""

    def pushed(self, text: str) -> str:
        """What of a text is certain to belong to the value."""
        if self._first and text:
            self._first, text = False, text.removeprefix("\n")
        text = self._held + text
        self._held = ""
        if self._last and text.endswith("\n"):
            self._held, text = "\n", text[:-1]
        return text


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _object_text(text: str) -> str:
    """The text of arguments that were written as a string."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    if not isinstance(content, dict):
        raise Malformed
    return json.dumps(content, ensure_ascii=False)
