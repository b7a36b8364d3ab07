"""Why a row is not learnt from: one reason, in words that name the field and what to write instead.

Reasons are printed in a terminal and quote what a file holds, so what they quote is short and printable.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST = 60
_MOST_KEYS = 12


class Refused(Exception):
    """A row, or a whole file, that cannot be learnt from; the message is the reason, without the row's name."""


def quoted(value: Any, longest: int = _LONGEST) -> str:
    """A value from a file for a message: one short line without control characters."""
    text = value if isinstance(value, str) else type(value).__name__ if isinstance(value, (dict, list)) else str(value)
    line = "".join(character if character.isprintable() else " " for character in text[: longest + 1]).strip()
    return f"{line[:longest]}…" if len(line) > longest else line


def keys_found(keys: Iterable[Any]) -> str:
    """The names of fields, as a message lists them."""
    names = [quoted(key) for key in keys]
    more = f" and {len(names) - _MOST_KEYS} more" if len(names) > _MOST_KEYS else ""
    return (", ".join(names[:_MOST_KEYS]) or "none") + more


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of a message."""
    if isinstance(value, bool):
        return "true or false"
    for types, name in (
        ((int, float), "a number"),
        (str, "a string"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
    ):
        if isinstance(value, types):
            return name
    return "null" if value is None else f"a {type(value).__name__}"
