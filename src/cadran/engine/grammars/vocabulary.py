"""A vocabulary as the grammar library wants it: the bytes of each token, and how a text in the making is cut.

The bytes are those that decoding gives, whatever the kind of the vocabulary, so what the library follows is the text
that the user sees. Special tokens are told apart from text and match none of it.
"""

from functools import cached_property
from typing import TYPE_CHECKING

from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_SPECIAL_MARK = 0xFF  # begins a special token inside the library; UTF-8 never has it
_OPENINGS = ("", "\n", "a")
"""Put before a text that goes on from another, so that what a tokenizer adds to the start of a text is added there."""


class GrammarVocabulary:
    """The tokens of a tokenizer, and behind them some of its own that are never chosen.

    Args:
        tokenizer: of the model.

    Attributes:
        size: of the tokenizer's vocabulary.
        end: id past the vocabulary that stands for the end of a text: the ids that end an answer are the caller's.
        tokens: bytes of each id, then ``end``, then every byte of UTF-8 that no token spells by itself, so
            that any text can be cut into tokens; where only these remain the vocabulary cannot go on.
        special_token_ids: ids that are no text.
        eos_token_id: as ``end``, a name of the library's.
        bos_token_id: None.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size = self.end = self.eos_token_id = tokenizer.vocabulary_size
        self.bos_token_id: int | None = None
        special = [id for id in range(self.size) if tokenizer.is_special(id)]
        self.special_token_ids = [*special, self.end]
        self.tokens = [tokenizer.token_bytes(id) for id in range(self.size)]
        hidden = set(special)
        self.tokens = [
            b"" if id not in hidden and _SPECIAL_MARK in token else token for id, token in enumerate(self.tokens)
        ]
        self._ids = {token: id for id, token in enumerate(self.tokens) if token and id not in hidden}
        self._longest = max(map(len, self._ids), default=1)
        self.tokens.append(b"<end of text>")
        for byte in (*range(0xC0), *range(0xC2, 0xF5)):  # those that UTF-8 has
            if bytes([byte]) not in self._ids:
                self._ids[bytes([byte])] = len(self.tokens)
                self.tokens.append(bytes([byte]))

    @cached_property
    def library(self) -> "LLTokenizer":
        """The library's form of it: a tree of the tokens' bytes (0.1 s for 50 k tokens)."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self), n_vocab=len(self.tokens))

    @property
    def spells_all(self) -> bool:
        """Whether every byte has a token, so that any text can be written."""
        return len(self.tokens) == self.size + 1

    def spells(self, text: str) -> bool:
        """Whether the tokens of the vocabulary can write a text."""
        raw = text.encode("utf-8")
        reached = [True] + [False] * len(raw)
        for start in range(len(raw)):
            for stop in range(start + 1, min(len(raw), start + self._longest) + 1) if reached[start] else ():
                reached[stop] = reached[stop] or self._ids.get(raw[start:stop], self.size) < self.size
        return reached[-1]

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens whose bytes are exactly this text; where possible those that the tokenizer takes inside a text."""
        wanted = text.encode("utf-8") if isinstance(text, str) else bytes(text)
        try:
            characters = wanted.decode("utf-8")
        except UnicodeDecodeError:
            return self._longest_first(wanted)
        for opening in _OPENINGS:
            ids = self._last(self._tokenizer.encode(opening + characters), wanted)
            if ids is not None:
                return ids
        return self._longest_first(wanted)

    def _last(self, ids: list[int], wanted: bytes) -> list[int] | None:
        """The last ids, if their bytes are what is wanted: a normalizer, an unknown character or a merge with the
        opening may have changed them."""
        missing = len(wanted)
        for start in range(len(ids), -1, -1):
            if missing <= 0:
                kept = ids[start:]
                text = missing == 0 and not any(self._tokenizer.is_special(id) for id in kept)
                return kept if text and b"".join(self.tokens[id] for id in kept) == wanted else None
            if start:
                missing -= len(self.tokens[ids[start - 1]])
        return None

    def _longest_first(self, wanted: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(wanted):
            stop = min(len(wanted), start + self._longest)
            while stop > start + 1 and wanted[start:stop] not in self._ids:
                stop -= 1
            ids.append(self._ids.get(wanted[start:stop], self.end))
            start = stop
        return ids
