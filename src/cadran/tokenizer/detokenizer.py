"""Ids to text, as the decoder of a tokenizer.json says: a whole answer, or one token at a time.

Two kinds of vocabulary exist. A byte-level one (GPT-2 and most since) spells bytes. A SentencePiece one (Llama 2,
Mistral, Gemma, T5) spells characters, with ▁ for a space, <0x0A> for a byte that no piece covers, and before the first
word a space that is taken away again. The whole is what the ``tokenizers`` library gives, and the pieces of a stream
concatenate to the whole.
"""

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

from cadran.errors import UserError

SPACE_MARK = "▁"  # U+2581, SentencePiece's visible space
REPLACEMENT = "\ufffd"

_MOST_HOLES = 1 << 16  # ids without a token, of which vocabularies padded for the hardware have a few
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TextStream(Protocol):
    """Text that grows token by token; never half a character."""

    def push(self, id: int) -> str:
        """The characters that this token makes certain."""

    def flush(self) -> str:
        """What was waiting for more; the stream is then new again."""


class Detokenizer(ABC):
    """The tokens of a vocabulary and how they make text. An id inside the vocabulary may have no token: it is empty."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Highest id plus one."""

    @abstractmethod
    def token_bytes(self, id: int) -> bytes:
        """Bytes of a token as it stands in the middle of a text.

        Raises:
            UserError: the id is outside the vocabulary.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of a whole sequence, with U+FFFD where its bytes are not UTF-8.

        Raises:
            UserError: an id is outside the vocabulary.
        """

    @abstractmethod
    def stream(self, continues: bool = False) -> TextStream:
        """A new stream; ``continues`` when other text stands before it, so that a leading space is kept."""

    def _outside(self, id: int) -> UserError:
        return UserError(
            f"Token {id} is outside the vocabulary of {self.size}; take the tokenizer that was saved with the model."
        )


def detokenizer_of(core: Any) -> Detokenizer:
    """Read the tokens and the decoder of a loaded ``tokenizers.Tokenizer``.

    Raises:
        UserError: its decoder is of another kind, or its ids are absurd.
    """
    steps = steps_of(core.decoder, "decoders")
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return ByteDetokenizer(core)
    opens = bool(steps) and (
        steps[0] == {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
        or (kinds[0] == "Metaspace" and steps[0].get("replacement") == SPACE_MARK)
    )
    strip = steps[-1] if kinds[-2:] == ["Fuse", "Strip"] else None
    if strip is not None and (strip["content"], strip["stop"]) != (" ", 0):
        opens = False
    middle = kinds[1:-1] if strip else kinds[1:]
    if not opens or middle not in ([], ["Fuse"], ["ByteFallback"], ["ByteFallback", "Fuse"]):
        raise UserError(
            f"This tokenizer does not work on bytes, nor on SentencePiece pieces (its decoder is "
            f"{', '.join(kinds) or 'absent'}); take a model with a byte-level BPE, SentencePiece or Unigram tokenizer."
        )
    return PieceDetokenizer(
        core,
        byte_fallback="ByteFallback" in middle,
        first_without_marks=kinds[0] == "Metaspace" and steps[0].get("prepend_scheme", "always") != "never",
        stripped=0 if strip is None else int(strip["start"]),
    )


class ByteDetokenizer(Detokenizer):
    """A byte-level vocabulary, spelt in the printable alphabet of GPT-2."""

    def __init__(self, core: Any) -> None:
        self._tokens = _tokens(core)
        self._alphabet = _alphabet()
        # Filled as tokens are met: all of them at once would cost a tenth of a second at every start.
        self._raw: dict[int, bytes] = {
            id: token.content.encode("utf-8") for id, token in core.get_added_tokens_decoder().items()
        }

    @property
    def size(self) -> int:
        return len(self._tokens)

    def token_bytes(self, id: int) -> bytes:
        raw = self._raw.get(id)
        if raw is not None:
            return raw
        if not 0 <= id < len(self._tokens):
            raise self._outside(id)
        token = self._tokens[id]
        raw = self._raw[id] = b"" if token is None else _raw_bytes(token, self._alphabet)
        return raw

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def stream(self, continues: bool = False) -> "ByteStream":
        return ByteStream(self)


class ByteStream:
    """A character appears with its last byte."""

    def __init__(self, detokenizer: ByteDetokenizer) -> None:
        self._detokenizer = detokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        return self._decoder.decode(self._detokenizer.token_bytes(id))

    def flush(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class PieceDetokenizer(Detokenizer):
    """A SentencePiece vocabulary.

    Attributes:
        first_without_marks: the first token of a text loses all its ▁ (what the library's Metaspace decoder does).
        stripped: at most so many spaces are taken off the start of a text.
    """

    def __init__(self, core: Any, *, byte_fallback: bool, first_without_marks: bool, stripped: int) -> None:
        self._pieces = [token or "" for token in _tokens(core)]
        self._byte_of: dict[int, int] = {}
        if byte_fallback:
            matches = ((id, _BYTE_PIECE.fullmatch(piece)) for id, piece in enumerate(self._pieces))
            self._byte_of = {id: int(match[1], 16) for id, match in matches if match}
        self.first_without_marks, self.stripped = first_without_marks, stripped

    @property
    def size(self) -> int:
        return len(self._pieces)

    def piece(self, id: int) -> str:
        """A token as the vocabulary writes it."""
        if 0 <= id < len(self._pieces):
            return self._pieces[id]
        raise self._outside(id)

    def byte(self, id: int) -> int | None:
        """The byte that a token such as <0x0A> stands for."""
        return self._byte_of.get(id)

    def token_bytes(self, id: int) -> bytes:
        piece = self.piece(id)
        byte = self.byte(id)
        return piece.replace(SPACE_MARK, " ").encode("utf-8") if byte is None else bytes([byte])

    def decode(self, ids: Iterable[int]) -> str:
        stream = self.stream()
        return "".join(map(stream.push, ids)) + stream.flush()

    def stream(self, continues: bool = False) -> "PieceStream":
        return PieceStream(self, continues)


class PieceStream:
    """Bytes wait for the end of their run: one that is not UTF-8 turns the whole run into replacement marks."""

    def __init__(self, detokenizer: PieceDetokenizer, continues: bool) -> None:
        self._detokenizer, self._continues = detokenizer, continues
        self._run = bytearray()
        self._start()

    def _start(self) -> None:
        self._first = self._detokenizer.first_without_marks and not self._continues
        self._to_strip = 0 if self._continues else self._detokenizer.stripped

    def push(self, id: int) -> str:
        piece = self._detokenizer.piece(id)
        first, self._first = self._first, False
        byte = self._detokenizer.byte(id)
        if byte is not None:
            self._run.append(byte)
            return ""
        return self._stripped(self._end_of_run() + piece.replace(SPACE_MARK, "" if first else " "))

    def flush(self) -> str:
        rest = self._stripped(self._end_of_run())
        self._start()
        return rest

    def _end_of_run(self) -> str:
        raw = bytes(self._run)
        self._run.clear()
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return REPLACEMENT * len(raw)

    def _stripped(self, text: str) -> str:
        if not self._to_strip or not text:
            return text
        kept = text.lstrip(" ")
        spaces = min(len(text) - len(kept), self._to_strip)
        # Anything but a space ends the stripping, also for the tokens that follow.
        self._to_strip = self._to_strip - spaces if spaces == len(text) else 0
        return text[spaces:]


def steps_of(component: Any, parts: str) -> list[dict[str, Any]]:
    """The steps of a decoder, pre-tokenizer, normalizer or post-processor of the library, sequences flattened.

    Args:
        component: the object, or None.
        parts: name of the list in which its sequences keep their parts.
    """
    return [] if component is None else flattened(json.loads(component.__getstate__()), parts)


def flattened(step: dict[str, Any], parts: str) -> list[dict[str, Any]]:
    """A step of a tokenizer.json, or the steps of a sequence and of the sequences within it."""
    if step.get("type") != "Sequence":
        return [step]
    return [inner for part in step[parts] for inner in flattened(part, parts)]


def _tokens(core: Any) -> list[str | None]:
    """Token of each id; None where there is none."""
    vocabulary: dict[str, int] = core.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    if size > len(vocabulary) + _MOST_HOLES:
        raise UserError(f"This tokenizer has {len(vocabulary)} tokens and ids up to {size - 1}; make or fetch it anew.")
    tokens: list[str | None] = [None] * size
    for token, id in vocabulary.items():
        tokens[id] = token
    return tokens


def _raw_bytes(token: str, alphabet: dict[int, int]) -> bytes:
    """Bytes behind the printable letters of a token; one that is not written in them stands for itself."""
    try:
        return token.translate(alphabet).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode("utf-8")


def _alphabet() -> dict[int, int]:
    """Letter of GPT-2's alphabet -> byte: Latin-1 where it is visible, else the letters from U+0100 on.

    The invisible part of Latin-1 is not in the alphabet: it is sent where Latin-1 cannot follow.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {0x100 + rank: byte for rank, byte in enumerate(hidden)} | dict.fromkeys(hidden, 0xFFFF)
