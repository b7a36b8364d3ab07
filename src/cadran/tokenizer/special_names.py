"""Names of special tokens typed as text: found, hidden from the vocabulary, and encoded as the text they are.

A name is hidden behind one character that no text at hand holds, so a template passes it on whole, or betrays that it
looked at it; the library then encodes that character like any other, and its ids give way to those of the name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from cadran.tokenizer.tokenizer import Tokenizer

_MARKS = range(0x100000, 0x10FFFE)  # the last private plane: in nobody's merges and in next to no text


class SpecialNames:
    """The names of a tokenizer's special tokens.

    Args:
        tokenizer: whose they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def within(self, value: Any) -> list[str]:
        """The names that the strings in a value (mappings and sequences walked) hold, sorted."""
        return sorted({name for text in strings(value) for _, name in self._find(text)})

    def hidden(self, value: Any, marks: Mapping[str, str]) -> Any:
        """A copy of a value in which each name is its mark."""
        if isinstance(value, str):
            pieces, end = [], 0
            for start, name in self._find(value):
                pieces += [value[end:start], marks[name]]
                end = start + len(name)
            return "".join((*pieces, value[end:]))
        if isinstance(value, Mapping):
            return {key: self.hidden(part, marks) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            parts = [self.hidden(part, marks) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        return value

    @cached_property
    def _names(self) -> frozenset[str]:
        ids = filter(self._tokenizer.is_special, range(self._tokenizer.vocabulary_size))
        names = (self._tokenizer.token_bytes(id).decode("utf-8", errors="replace") for id in ids)
        return frozenset(name for name in names if name.strip())

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(name) for name in self._names}, reverse=True)

    @cached_property
    def _first(self) -> re.Pattern[str]:
        # Not one pattern of all names: a vocabulary may have thousands, and each "<" of a text would try them all.
        return re.compile(
            f"[{re.escape(''.join(sorted({name[0] for name in self._names})))}]" if self._names else "(?!)"
        )

    def _find(self, text: str) -> Iterator[tuple[int, str]]:
        """Start and name, the first and of those the longest, without overlaps: as ``tokenizers`` matches."""
        end = 0
        for match in self._first.finditer(text):
            start = match.start()
            if start < end:
                continue
            for length in self._lengths:
                if text[start : start + length] in self._names:
                    yield start, text[start : start + length]
                    end = start + length
                    break


class HidingEncoder:
    """Encodes text in which single characters stand for the names of special tokens.

    Args:
        tokenizer: whose ids.
        marks: name -> character; at least one.
    """

    def __init__(self, tokenizer: Tokenizer, marks: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._names = {mark: name for name, mark in marks.items()}
        self._runs = {mark: self._plain(mark) for mark in self._names}
        self._as_text = {mark: self._name(name) for mark, name in self._names.items()}

    def shown(self, text: str) -> str:
        """The text with the names in it."""
        return text.translate({ord(mark): name for mark, name in self._names.items()})

    def __call__(self, text: str) -> list[int]:
        """Ids of the text; those of a name are what the vocabulary makes of its characters, never the special id."""
        ids = self._tokenizer.encode(text, special=True)
        for mark, run in self._runs.items():
            places = _places(ids, run)
            if len(places) != text.count(mark):  # the character has no ids of its own here: cut the text at it
                return self._cut(text)
            for place in reversed(places):
                ids[place : place + len(run)] = self._as_text[mark]
        return ids

    def _cut(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in re.split(f"([{''.join(self._names)}])", text):
            if piece in self._names:
                ids += self._as_text[piece]
            elif piece:
                ids += self._tokenizer.encode(piece, special=True)
        return ids

    def _name(self, name: str) -> list[int]:
        ids = self._plain(name)
        if set(ids) & set(self._tokenizer.encode(name, special=True)):  # the merges lead to the token itself
            ids = [id for character in name for id in self._plain(character)]
        return ids

    def _plain(self, text: str) -> list[int]:
        """Ids of a text inside another: some tokenizers put a blank before the first word."""
        before = next(iter(self._names))
        first, both = self._tokenizer.encode(before), self._tokenizer.encode(before + text)
        return both[len(first) :] if both[: len(first)] == first else self._tokenizer.encode(text)


def choose_marks(names: list[str], *values: Any) -> dict[str, str] | None:
    """A character for each name that no string in the values holds; None when they hold them all."""
    used = set().union(*strings(values))
    free = (chr(code) for code in _MARKS if chr(code) not in used)
    marks = dict(zip(names, free, strict=False))
    return marks if len(marks) == len(names) else None


def strings(value: Any) -> Iterator[str]:
    """The strings in a value; keys of mappings are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from strings(part)


def _places(ids: list[int], run: list[int]) -> list[int]:
    """Where ``run`` stands in ``ids``, without overlaps."""
    places, place = [], 0
    while run and place <= len(ids) - len(run):
        if ids[place : place + len(run)] == run:
            places.append(place)
            place += len(run)
        else:
            place += 1
    return places
