"""A text that comes in pieces, read character by character by one generator that may look ahead and go back.

The generator waits wherever it is when the text runs out, so a format is read as it would be from a whole text, and
where the pieces begin and end never shows. Source: coroutines as parsers, PEP 342.
"""

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from cadran.serve.tools.call_syntax import WILD
from cadran.serve.tools.output_reader import Argued, Piece, Said, Thought

T = TypeVar("T")
Reading = Generator[None, str, T]
Told = Callable[[str], None]


class Malformed(Exception):
    """What looked like a call is none."""


class CharacterFeed:
    """The hands of a reader: what was told, what has to be read again, what was read and not told.

    Attributes:
        raw: the characters since everything was told; None while nobody wants them.
    """

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._again: list[str] = []  # characters, the next one last
        self._ended = False
        self.raw: list[str] | None = None
        # Where no character of the pattern comes the text can be told at once.
        self._plain: tuple[Told, re.Pattern[str]] | None = None

    def tell(self, piece: Piece) -> None:
        """Tell a piece, joined with the one before where both are of one kind."""
        last = self._pieces[-1] if self._pieces else None
        match last, piece:
            case Thought(before), Thought(text):
                self._pieces[-1] = Thought(before + text)
            case Said(before), Said(text):
                self._pieces[-1] = Said(before + text)
            case Argued(before), Argued(text):
                self._pieces[-1] = Argued(before + text)
            case _:
                self._pieces.append(piece)

    def argue(self, text: str) -> None:
        """Tell a piece of arguments, with which everything that was read is told."""
        if text:
            self.tell(Argued(text))
        if self.raw is not None:
            self.raw.clear()

    def taken(self) -> list[Piece]:
        """What was told since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def run(self, reading: Reading[None], text: str) -> None:
        """Let the generator read a text."""
        place = 0
        while place < len(text):
            if self._plain is not None and self.raw is None:
                told, pattern = self._plain
                found = pattern.search(text, place)
                stop = found.start() if found else len(text)
                if stop > place:
                    told(text[place:stop])
                    place = stop
                    continue
            reading.send(text[place])
            place += 1

    def finish(self, reading: Reading[None]) -> None:
        """Let the generator read the end of the text."""
        self._ended = True
        try:
            reading.send("")
        except StopIteration:
            return
        raise AssertionError("a reader asks for more after the end")

    def get(self) -> Reading[str]:
        """The next character; "" at the end, however often it is asked for."""
        if self._again:
            character = self._again.pop()
        elif self._ended:
            return ""
        else:
            character = yield
        if self.raw is not None and character:
            self.raw.append(character)
        return character

    def visible(self) -> Reading[str]:
        """The next character that is no white space."""
        character = yield from self.get()
        while character.isspace():
            character = yield from self.get()
        return character

    def back(self, characters: Iterable[str]) -> None:
        """Read these again, the first one first."""
        given = [character for character in characters if character]
        if given and self.raw:
            del self.raw[-len(given) :]
        self._again.extend(reversed(given))

    def match(self, marks: Sequence[str], *, keep: bool = False, swallow: bool = False) -> Reading[str | None]:
        """Which of several marks comes next; where none does, nothing was read.

        Args:
            marks: without white space (``compact``); white space in the text does not count.
            keep: leave the mark to be read.
            swallow: forget a mark that the end of the text cuts.
        """
        read: list[str] = []
        states = [(mark, 0) for mark in marks if mark]
        while states:
            character = yield from self.get()
            if not character:
                if not swallow:
                    self.back(read)
                return None
            read.append(character)
            if character.isspace():
                continue
            states = [after for state in states for after in _after(*state, character)]
            for mark, place in states:
                if place == len(mark):
                    if keep:
                        self.back(read)
                    return mark
        self.back(read)
        return None

    def until(self, marks: Sequence[str], told: Told) -> Reading[str | None]:
        """Tell everything up to the first of several marks, which is read and returned; None at the end."""
        pattern = re.compile("|".join(re.escape(mark[0]) for mark in marks) or r"(?!)")
        held = ""
        while True:
            self._plain = None if held else (told, pattern)
            character = yield from self.get()
            self._plain = None
            if not character:
                if held:
                    told(held)
                return None
            held += character
            while held and held not in marks and not any(mark.startswith(held) for mark in marks):
                told(held[0])
                held = held[1:]
            if held in marks:
                return held


def _after(mark: str, place: int, character: str) -> list[tuple[str, int]]:
    """Where one can be in a mark after a character."""
    wanted = mark[place]
    if wanted != WILD:
        return [(mark, place + 1)] if wanted == character else []
    on = [(mark, place)] if character.isalnum() or character in "_-" else []
    return [*on, (mark, place + 2)] if mark[place + 1 : place + 2] == character else on


class Trimmed:
    """Tells a text without the white space around it.

    Args:
        told: where it goes.
    """

    def __init__(self, told: Told) -> None:
        self._told, self._begun, self._waiting = told, False, ""

    def __call__(self, text: str) -> None:
        """More of the text."""
        text = self._waiting + text if self._begun else text.lstrip()
        solid = text.rstrip()
        self._begun, self._waiting = self._begun or bool(solid), text[len(solid) :]
        if solid:
            self._told(solid)
