"""Pieces of an answer as items of a prediction's output, and as lines of its stream. Source: api-contracts 6.1, 6.3."""

import re

_FILES = ("https:", "http:", "data:")
"""What an item must not begin with: clients take it for the address of a file."""

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SEPARATORS = re.compile("[\x1c\x1d\x1e]")


class OutputItems:
    """Cuts a text that comes in pieces into items, which joined are the text again."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> list[str]:
        """Take a piece; returns the items that are complete."""
        text = self._held + text
        # A line end of two characters in two items would be two line ends in a stream.
        self._held = "\r" if text.endswith("\r") else ""
        return _items(text.removesuffix(self._held))

    def end(self) -> list[str]:
        """What is left."""
        text, self._held = self._held, ""
        return _items(text)


def _items(text: str) -> list[str]:
    if text.lower().startswith(_FILES):
        return [text[0], text[1:]]
    return [text] if text else []


def streamable(text: str) -> str:
    """A text with the line ends that a stream can carry.

    Clients cut the lines of a stream at every line end that Unicode knows, so that no such character reaches them
    within a text: line ends become ``\\n``, and the separators of files, groups and records become spaces. Halves of
    surrogate pairs, which UTF-8 cannot express, become question marks.
    """
    text = _SEPARATORS.sub(" ", _LINE_ENDS.sub("\n", text))
    return text.encode("utf-8", "replace").decode("utf-8")
