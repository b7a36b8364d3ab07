"""How a tokenizer cuts a text, for people: what ``cadran tokenizer show`` prints."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.text import Text

MARKS = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}
STYLES = ("black on #ffd9a0", "black on #a9d6e5")  # black is written out: readable on dark and light terminals


class Piece(NamedTuple):
    """One token of a text: its id, its bytes, and how to print them on one line."""

    id: int
    raw: bytes
    printable: str


def segment(tokenizer: Tokenizer, text: str) -> list[Piece]:
    """The tokens of a text in order; their bytes concatenate to its UTF-8 (SentencePiece may put a space before it)."""
    pieces = []
    for id in tokenizer.encode(text):
        raw = tokenizer.token_bytes(id)
        pieces.append(Piece(id, raw, printable(raw)))
    return pieces


def printable(raw: bytes) -> str:
    """Bytes of a token with nothing invisible: marks for white space, ``\\xE9`` for part of a character."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return "".join(_visible(character) for character in text)


def coloured(tokenizer: Tokenizer, text: str) -> "Text":
    """The text with its tokens on alternating backgrounds; a line break is marked, then made."""
    from rich.text import Text

    line = Text()
    for position, piece in enumerate(segment(tokenizer, text)):
        line.append(piece.printable, style=STYLES[position % len(STYLES)])
        line.append("\n" * piece.raw.count(b"\n"))
    return line


def bytes_per_token(tokenizer: Tokenizer, texts_by_language: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Mean bytes of UTF-8 behind a token, for each language: the higher, the more text a context holds.

    Args:
        tokenizer: the one to judge.
        texts_by_language: language -> texts, better held out from its training.

    Raises:
        UserError: a language has no text.
    """
    figures = {}
    for language, texts in texts_by_language.items():
        kept = list(texts)
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(kept))
        if tokens == 0:
            raise UserError(f"There is no text in {language!r} to measure; give some or leave the language out.")
        figures[language] = sum(len(text.encode("utf-8")) for text in kept) / tokens
    return figures


def _visible(character: str) -> str:
    if character in MARKS:
        return MARKS[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape could not place in a character
        return f"\\x{code - 0xDC00:02X}"
    return character if character.isprintable() else f"\\u{{{code:X}}}"
