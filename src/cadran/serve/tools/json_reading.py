"""JSON values read character by character from a feed, told on as they come. Source: RFC 8259.

One leniency: a line break inside a string, which models write and JSON forbids, is told as its escape.
"""

import json
import re
from collections.abc import Callable

from cadran.serve.tools.character_feed import CharacterFeed, Malformed, Reading

_DEEPEST = 64
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_PARTIAL = re.compile(r"-?(?:0|[1-9]\d*)?(?:(?<=\d)\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?")

Echo = Callable[[str], None]


def nothing(text: str) -> None:
    """Tells nobody."""


def read_value(feed: CharacterFeed, first: str, echo: Echo, depth: int = 0) -> Reading[None]:
    """A value whose first character was read.

    Raises:
        Malformed: it is none; the character at fault was read.
    """
    if depth > _DEEPEST or not first:
        raise Malformed
    if first == "{":
        yield from _object(feed, echo, depth)
    elif first == "[":
        yield from _array(feed, echo, depth)
    elif first == '"':
        yield from read_string(feed, echo)
    elif first in _LITERALS:
        echo(first)
        for wanted in _LITERALS[first][1:]:
            if (yield from feed.get()) != wanted:
                raise Malformed
            echo(wanted)
    elif first in "-0123456789":
        yield from _number(feed, first, echo)
    else:
        raise Malformed


def read_string(feed: CharacterFeed, echo: Echo) -> Reading[str]:
    """A string whose quotation mark was read; its text.

    Raises:
        Malformed: it is none.
    """
    read: list[str] = []
    echo('"')
    while (character := (yield from feed.get())) != '"':
        if not character:
            raise Malformed
        if character == "\\":
            character += yield from feed.get()
            if character == "\\u":
                for _ in range(4):
                    digit = yield from feed.get()
                    if not digit or digit not in "0123456789abcdefABCDEF":
                        raise Malformed
                    character += digit
            elif character[1:] not in tuple('"\\/bfnrt'):
                raise Malformed
        elif character < " ":
            character = json.dumps(character)[1:-1]
        read.append(character)
        echo(character)
    echo('"')
    text: str = json.loads(f'"{"".join(read)}"')
    return text


def _number(feed: CharacterFeed, first: str, echo: Echo) -> Reading[None]:
    text = first
    echo(first)
    while (character := (yield from feed.get())) and _PARTIAL.fullmatch(text + character):
        text += character
        echo(character)
    if character:
        feed.back(character)
    if not _NUMBER.fullmatch(text):
        yield from feed.get()  # so that it counts as the one at fault
        raise Malformed


def _object(feed: CharacterFeed, echo: Echo, depth: int) -> Reading[None]:
    echo("{")
    space: list[str] = []
    character = yield from _visible(feed, space.append)
    if character == "}":  # an empty object is told as {}, which some clients look for
        echo("}")
        return
    echo("".join(space))
    while True:
        if character != '"':
            raise Malformed
        yield from read_string(feed, echo)
        if (yield from _visible(feed, echo)) != ":":
            raise Malformed
        echo(":")
        yield from read_value(feed, (yield from _visible(feed, echo)), echo, depth + 1)
        character = yield from _visible(feed, echo)
        if character == "}":
            echo("}")
            return
        if character != ",":
            raise Malformed
        echo(",")
        character = yield from _visible(feed, echo)


def _array(feed: CharacterFeed, echo: Echo, depth: int) -> Reading[None]:
    echo("[")
    character = yield from _visible(feed, echo)
    if character == "]":
        echo("]")
        return
    while True:
        yield from read_value(feed, character, echo, depth + 1)
        character = yield from _visible(feed, echo)
        if character == "]":
            echo("]")
            return
        if character != ",":
            raise Malformed
        echo(",")
        character = yield from _visible(feed, echo)


def _visible(feed: CharacterFeed, echo: Echo) -> Reading[str]:
    """The next character that is no white space; the white space is told."""
    while (character := (yield from feed.get())) and character in " \t\r\n":
        echo(character)
    return character
