"""The text of an answer while it grows, cut where a stop string begins.

Characters are shown as soon as they are certain: half a character waits for its other half, and what may be the
beginning of a stop string waits until it is known whether it is one. Where tokens begin and end never shows: the pieces
concatenate to the same text however the tokens cut it. The automaton is that of Aho and Corasick (1975), so a character
costs the same however many stop strings there are.
"""

from collections.abc import Sequence

from cadran.errors import UserError
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer


class TextStream:
    """Text of one answer, token by token, up to the first stop string.

    The stop string that is complete first wins, so a shorter one wins over a longer one that begins with it; of those
    that are complete with the same character the one that began first wins. It is not part of the text.

    Args:
        tokenizer: whose ids will come.
        stop: strings that end the answer, in any order; none is empty.
        skip_special: leave the special tokens out of the text.
        continues: the answer goes on from a prompt, so that SentencePiece keeps the space before its first word.
        shown: special ids whose names are part of the text all the same.
        deaf: so many tokens at the beginning in which no stop string is sought; one that begins there is none either.

    Attributes:
        stopped: the stop string that was found, None while there is none.

    Raises:
        UserError: a stop string is empty.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        *,
        continues: bool = True,
        shown: frozenset[int] = frozenset(),
        deaf: int = 0,
    ) -> None:
        self.stopped: str | None = None
        self._tokenizer, self._shown = tokenizer, shown
        self._decoder = IncrementalDecoder(tokenizer, skip_special, continues=continues)
        self._stops = _StopFinder([stop] if isinstance(stop, str) else stop) if stop else None
        self._withheld = ""
        self._deaf = deaf

    def push(self, token: int) -> str:
        """The characters that this token makes certain; "" after a stop string was found.

        Raises:
            UserError: the id is outside the vocabulary.
        """
        if self.stopped is not None:
            return ""
        said = self._said(token)
        self._deaf = max(0, self._deaf - 1)
        return said

    def _said(self, token: int) -> str:
        if token in self._shown:  # it ends whatever character was under way
            return self._checked(self._decoder.flush() + self._tokenizer.token_bytes(token).decode("utf-8", "replace"))
        return self._checked(self._decoder.push(token))

    def flush(self) -> str:
        """What was withheld, when no more tokens come. ``stopped`` may be set by it: bytes that waited are text now."""
        if self.stopped is not None:
            return ""
        text = self._checked(self._decoder.flush())
        rest, self._withheld = self._withheld, ""
        return text + rest

    def _checked(self, piece: str) -> str:
        if self._stops is None or self._deaf or not piece:
            return piece
        text, before = self._withheld + piece, len(self._withheld)
        for place, character in enumerate(piece, start=before + 1):
            found = self._stops.advance(character)
            if found is not None:
                self.stopped, self._withheld = found, ""
                return text[: place - len(found)]
        certain = len(text) - self._stops.depth
        self._withheld = text[certain:]
        return text[:certain]


class _StopFinder:
    """The automaton: its state is the longest end of the text that begins a stop string.

    Attributes:
        depth: characters of that end.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise UserError("a stop string is empty and would end every answer at once; leave it out")
        self._next: list[dict[str, int]] = [{}]
        self._depths = [0]
        self._found: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._shorter = [0] * len(self._next)
        self._link()
        self._state = 0

    @property
    def depth(self) -> int:
        return self._depths[self._state]

    def advance(self, character: str) -> str | None:
        """Read a character; the longest stop string that ends with it, if one does."""
        self._state = self._after(self._state, character)
        return self._found[self._state]

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depths.append(self._depths[state] + 1)
                self._found.append(None)
            state = self._next[state][character]
        self._found[state] = stop

    def _link(self) -> None:
        """For each state the next shorter end that also begins a stop string, and what ends in it; shortest first."""
        level = list(self._next[0].values())
        while level:
            deeper = []
            for state in level:
                for character, child in self._next[state].items():
                    self._shorter[child] = self._after(self._shorter[state], character)
                    if self._found[child] is None:
                        self._found[child] = self._found[self._shorter[child]]
                    deeper.append(child)
            level = deeper

    def _after(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)
