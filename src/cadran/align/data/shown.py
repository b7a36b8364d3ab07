"""Rendered examples with the tokens that are learnt marked, to look at before a training starts.

Made from the ids and the mask that the trainer is given, not from the messages, so that what is shown is what is
learnt. Three forms: coloured for a terminal, plain with [[...]] around what is learnt, HTML for the report. Texts come
from a user's file and are escaped: control characters are shown as pictures and cannot reach the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Literal

from rich.text import Text

from cadran.corpus.shards import EncodedDocument
from cadran.tokenizer.tokenizer import Tokenizer

AROUND = 60
"""Tokens shown on each side of a border between prompt and answer."""

LONGEST = 400
"""Most tokens shown of one example."""

LEARNT_STYLE, SPECIAL_STYLE, LEFT_OUT_STYLE = "black on green", "bold", "dim italic"
_BIDIRECTIONAL = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F}

PieceKind = Literal["text", "special", "left out"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        text: what they say, safe to print; of ``left out`` a count of tokens.
        kind: ``text``, ``special`` (marks such as ``<|im_end|>``) or ``left out``.
        learnt: they are targets.
    """

    text: str
    kind: PieceKind
    learnt: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model reads it.

    Attributes:
        source: names the row.
        pieces: in order.
        tokens: all of its tokens, those that are not shown included.
        supervised: how many of them are learnt.
    """

    source: str
    pieces: tuple[Piece, ...]
    tokens: int
    supervised: int

    @property
    def heading(self) -> str:
        """Its name and its counts."""
        share = self.supervised / max(self.tokens, 1)
        return f"{printable(self.source)}: {self.tokens:,} tokens, {self.supervised:,} learnt ({share:.0%})"

    def rich(self) -> Text:
        """For the terminal: what is learnt on a coloured ground, special tokens bold."""
        text = Text()
        for piece in self.pieces:
            styles = {"text": "", "special": SPECIAL_STYLE, "left out": LEFT_OUT_STYLE}[piece.kind]
            text.append(piece.text, " ".join(filter(None, (LEARNT_STYLE if piece.learnt else "", styles))) or None)
        return text

    def plain(self) -> str:
        """Without colours: [[...]] around what is learnt."""
        runs = groupby(self.pieces, key=lambda piece: piece.learnt)
        texts = ((learnt, "".join(piece.text for piece in run)) for learnt, run in runs)
        return "".join(f"[[{text}]]" if learnt else text for learnt, text in texts)

    def html(self) -> str:
        """Spans of the classes ``learnt``, ``special`` and ``left-out``; show it with ``white-space: pre-wrap``."""
        parts = []
        for piece in self.pieces:
            classes = ["learnt"] if piece.learnt else []
            if piece.kind != "text":
                classes.append(piece.kind.replace(" ", "-"))
            text = escape(piece.text)
            parts.append(f'<span class="{" ".join(classes)}">{text}</span>' if classes else text)
        return "".join(parts)


def shown_examples(
    documents: Sequence[EncodedDocument], sources: Sequence[str], tokenizer: Tokenizer, count: int = 3
) -> list[Example]:
    """Examples from the beginning, the middle and the end of the rows.

    Args:
        documents: as they are trained on.
        sources: their names, as many.
        tokenizer: of the model.
        count: most examples.
    """
    last, count = len(documents) - 1, min(count, len(documents))
    places = [round(number * last / max(count - 1, 1)) for number in range(count)]
    return [shown_example(documents[place], sources[place], tokenizer) for place in places]


def shown_example(
    document: EncodedDocument, source: str, tokenizer: Tokenizer, around: int = AROUND, longest: int = LONGEST
) -> Example:
    """One document, clipped to what stands around the borders between prompt and answer.

    Args:
        document: ids and mask; without a mask all tokens but the first are targets.
        source: names the row.
        tokenizer: of the model.
        around: tokens on each side of a border.
        longest: most tokens in all; those after them are left out.
    """
    ids = [int(id) for id in document.ids]
    learnt = [number > 0 for number in range(len(ids))]
    if document.supervised is not None:
        learnt = [bool(each) for each in document.supervised]
    kept = _kept(learnt, around, longest)
    marks: list[tuple[PieceKind, bool]] = [
        (("special" if tokenizer.is_special(id) else "text"), each) if keep else ("left out", False)
        for id, each, keep in zip(ids, learnt, kept, strict=True)
    ]
    pieces = []
    for (kind, each), run in groupby(range(len(ids)), key=marks.__getitem__):
        numbers = list(run)
        if kind == "left out":
            pieces.append(Piece(f" … {len(numbers):,} tokens … ", kind, each))
        else:
            # Bytes of the whole run, because one character can be several tokens.
            content = b"".join(tokenizer.token_bytes(ids[number]) for number in numbers)
            pieces.append(Piece(printable(content.decode("utf-8", "replace")), kind, each))
    return Example(source, tuple(pieces), len(ids), sum(learnt))


def _kept(learnt: list[bool], around: int, longest: int) -> list[bool]:
    """Which tokens are shown: the beginning, and what is near a border."""
    borders = [number for number in range(1, len(learnt)) if learnt[number] != learnt[number - 1]]
    kept = [False] * len(learnt)
    for border in (0, *borders, len(learnt)):
        first, last = max(border - around, 0), min(border + around, len(learnt))
        kept[first:last] = [True] * (last - first)
    shown = 0
    for number, keep in enumerate(kept):
        shown += keep
        if shown > longest:
            kept[number] = False
    return kept


def printable(text: str) -> str:
    """The text with control characters as pictures (U+2400 on) and without those that turn the writing direction."""
    return text.translate(_Pictures())


class _Pictures(dict[int, int]):
    """A translation table: line breaks and tabs stay."""

    def __missing__(self, code: int) -> int:
        if code in (0x09, 0x0A):
            return code
        if code < 0x20:
            return 0x2400 + code
        if 0x7F <= code < 0xA0 or code in _BIDIRECTIONAL or 0xD800 <= code < 0xE000 or code in (0x2028, 0x2029):
            return 0x2421 if code == 0x7F else 0xFFFD
        return code
