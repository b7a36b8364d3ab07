"""Text normalisation: everything that is repaired once, here, so that the tokenizer never has to change a byte.

Mojibake is undone with ftfy, line by line and only where ftfy recognises it; then Unicode NFC, one kind of newline,
no control characters, no trailing blanks, at most two blank lines in a row. Typography is left as its author wrote
it: curly quotes and apostrophes, guillemets, ligatures, and both no-break spaces (U+00A0 and U+202F), because French
sets them before « : ; ? ! » and a model that writes French should too.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# Real mojibake is a UTF-8 sequence read one byte at a time, hence two neighbours outside ASCII; the exceptions are
# a no-break space that became a plain one ("Ã " was "à") and the C1 controls of Windows-1252 read as Latin-1.
# ftfy's own detector is exact but scans 2.7 MB/s; this one clears English and most French at memory speed.
_MAYBE_MOJIBAKE = re.compile(r"[^\x00-\x7f]{2}|[ÃÂ] |[\x80-\x9f]")
_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Invisible and meaningless in running text: controls, byte-order marks, zero-width space, soft hyphen.
# The joiners U+200C and U+200D stay: Persian and emoji need them.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\ufeff\ufffe\uffff]")
_TRAILING_BLANKS = re.compile(r"[^\S\n]+(?=\n)")
_MANY_BLANK_LINES = re.compile(r"\n{4,}")
_NEEDS_CLEANING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]|[^\S\n]\n|\n\n\n\n|\A\n|\s\Z"
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_ROUNDS = 16
_JSON_FIELDS = ("messages", "row")


def normalise(text: str) -> str:
    """The canonical form of a text; ``normalise(normalise(text)) == normalise(text)`` for every string.

    Args:
        text: any string, lone surrogates included (they become U+FFFD, since UTF-8 cannot hold them).

    Returns:
        Text in NFC with repaired encoding, "\\n" newlines, no control characters except tab and newline, no blanks at
        the end of a line, no empty line at either end, at most two empty lines in a row. Indentation is kept.
    """
    # One repair may uncover another (removing a control character can join two halves of a mojibake), so the pass
    # is repeated until it changes nothing, which is also what makes the whole idempotent. Two passes are typical.
    for _ in range(_ROUNDS):
        cleaned = _one_pass(text)
        if cleaned == text:
            break
        text = cleaned
    return text


def normalise_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """`normalise` applied to every value, and inside the JSON of the fields that hold JSON (messages, row)."""
    return {
        key: _dump(_inside(json.loads(value))) if key in _JSON_FIELDS else normalise(value)
        for key, value in meta.items()
    }


def _one_pass(text: str) -> str:
    if not text.isascii():
        if _SURROGATE.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if _MAYBE_MOJIBAKE.search(text):
            text = "\n".join(_repair_line(line) for line in text.split("\n"))
        text = unicodedata.normalize("NFC", text)
    if not _NEEDS_CLEANING.search(text):
        return text
    text = _NEWLINES.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = _TRAILING_BLANKS.sub("", text)
    text = _MANY_BLANK_LINES.sub("\n\n\n", text)
    return text.lstrip("\n").rstrip()


def _repair_line(line: str) -> str:
    """Undo mojibake in one line, so that a wrong paragraph does not decide for the good ones beside it."""
    if not _MAYBE_MOJIBAKE.search(line):
        return line
    from ftfy import fix_encoding

    repaired: str = fix_encoding(line)
    return repaired


def _inside(value: Any) -> Any:
    if isinstance(value, str):
        return normalise(value)
    if isinstance(value, list):
        return [_inside(item) for item in value]
    if isinstance(value, dict):
        return {key: _inside(item) for key, item in value.items()}
    return value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
