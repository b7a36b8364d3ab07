"""The prompt from which a model fills in the middle: what stands before the gap, what stands after it, and what else
lies in the repository.

Text is data: a marker that somebody has written into a file is not one. Source: api-contracts 8.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cadran.engine.engine import Engine
from cadran.serve.api_error import ApiError
from cadran.serve.ide.fim_markers import Markers, find_markers
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cadran.serve.served_model import ServedModel

PREFIX_SHARE = 0.75
"""Of the room that is divided when not everything fits: the text before the gap says more of what belongs there."""
STEPS = 8
"""A text is cut from the left by so many parts of its room at once: the same cut serves many keystrokes, and with it
what was computed for the one before."""
TOKEN_CHARACTERS = 32
"""More than a token has on the average: what lies further from the gap than so many for each is not even encoded."""
ECHO_CHARACTERS = 8
"""Fewer characters than these, blanks left out, say nothing: every second line ends with ``})``."""
ECHO_LIMIT = 200


@dataclass(frozen=True, slots=True)
class FimTokens:
    """How one model is asked to fill in.

    Attributes:
        markers: ids of the markers.
        tokenizer: of the model.
        opening: what the model was taught that a text begins with.
        stop_ids: every token that ends the middle.
    """

    markers: Markers
    tokenizer: Tokenizer
    opening: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", tuple(dict.fromkeys((*self.markers.stop_ids, *self.tokenizer.eos_ids))))

    def prompt(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[tuple[str, str]] = (),
        room: int | None = None,
        repo: str | None = None,
        path: str | None = None,
    ) -> tuple[int, ...]:
        """The ids that the model reads; its opening (BOS) is among them, exactly once.

        Args:
            prefix: text before the gap.
            suffix: text after it.
            extra: path and text of other files, the most important last.
            room: most tokens of it all. First other files are left out, then the prefix is cut from the left and the
                suffix from the right, to three quarters and one quarter where both are long. None cuts nothing.
            repo: name of the repository.
            path: of the file with the gap.

        Raises:
            ApiError: there is no room even for the markers.
            UserError: a text cannot be encoded.
        """
        return self.fitted(prefix, suffix, extra=extra, room=room, repo=repo, path=path)[0]

    def fitted(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[tuple[str, str]] = (),
        room: int | None = None,
        repo: str | None = None,
        path: str | None = None,
    ) -> tuple[tuple[int, ...], bool]:
        """As ``prompt``, and whether anything had to be left out."""
        if room is None:
            return self._put(self.tokenizer.encode(prefix), self._continued(suffix), extra, repo, path), False
        marks = 3 if self.markers.middle is not None else 2
        left = room - len(self.opening) - marks
        if left < 1:
            raise ApiError("too_long", "the context has no room for a gap; ask for a shorter answer")
        limit = left * TOKEN_CHARACTERS
        before = self.tokenizer.encode(prefix[_cut(len(prefix), limit, limit // STEPS) :])
        after = self._continued(suffix[:limit])
        cut = len(prefix) > limit or len(suffix) > limit
        # From the last file backwards, as long as they fit whole.
        for first in range(len(extra) + 1):
            if sum(len(text) for _, text in extra[first:]) <= limit:
                whole = self._put(before, after, extra[first:], repo, path)
                if len(whole) <= room:
                    return whole, cut or first > 0
        if len(before) + len(after) <= left:  # the name of the repository alone was too much
            return self._put(before, after), True
        return self._put(*_clipped(before, after, left)), True

    def _put(
        self,
        before: list[int],
        after: list[int],
        extra: Sequence[tuple[str, str]] = (),
        repo: str | None = None,
        path: str | None = None,
    ) -> tuple[int, ...]:
        files = [id for name, text in extra for id in self._file(name, text)]
        head, here = self._repository(repo, bool(extra)), self._here(path, bool(extra))
        return (*self.opening, *head, *files, *here, *self._gap(before, after))

    def _gap(self, before: list[int], after: list[int]) -> list[int]:
        marks = self.markers
        middle = [] if marks.middle is None else [marks.middle]
        if marks.order == "spm":
            return [marks.suffix, *after, marks.prefix, *before, *middle]
        return [marks.prefix, *before, marks.suffix, *after, *middle]

    def _repository(self, repo: str | None, context: bool) -> list[int]:
        if self.markers.repository is None or not (repo or context):
            return []
        return [self.markers.repository, *self._continued(f"{repo or 'repository'}\n")]

    def _file(self, path: str, text: str) -> list[int]:
        mark = [] if self.markers.file is None else [self.markers.file]
        return [*mark, *self._continued(f"{path}\n{text}" if text.endswith("\n") else f"{path}\n{text}\n")]

    def _here(self, path: str | None, context: bool) -> list[int]:
        if self.markers.file is None or not (path or context):
            return []
        return [self.markers.file, *(self._continued(f"{path}\n") if path else [])]

    def _continued(self, text: str) -> list[int]:
        """Ids of a text that stands after a marker: without the blank that some vocabularies put before every text."""
        ids = self.tokenizer.encode(text)
        if text and not text.startswith(" ") and ids and self.tokenizer.token_bytes(ids[0]).startswith(b" "):
            line = self.tokenizer.encode("\n")
            continued = self.tokenizer.encode(f"\n{text}")
            if continued[: len(line)] == line:
                return continued[len(line) :]
        return ids

    def template(self) -> str:
        """The prompt in the words of an Ollama template; clients look for ``.Suffix`` in it."""
        marks = self.markers
        prefix, suffix = f"{self._name(marks.prefix)}{{{{ .Prompt }}}}", f"{self._name(marks.suffix)}{{{{ .Suffix }}}}"
        middle = "" if marks.middle is None else self._name(marks.middle)
        return suffix + prefix + middle if marks.order == "spm" else prefix + suffix + middle

    def _name(self, id: int) -> str:
        return self.tokenizer.token_bytes(id).decode("utf-8", "replace")


def fim_of(served: "ServedModel") -> FimTokens | None:
    """How a model is asked to fill in, None when it was not taught to. Found out once for each open model."""
    return served.fim


def find_fim(engine: Engine, path: Path) -> FimTokens | None:
    """Find it out; of a GGUF file the metadata are read anew, which takes a tenth of a second.

    Args:
        engine: open.
        path: of the folder or file that it opened.
    """
    markers = find_markers(engine.tokenizer, path)
    return None if markers is None else FimTokens(markers, engine.tokenizer, tuple(engine.opening_ids))


def echo_of(suffix: str) -> tuple[str, ...]:
    """The string at which a middle ends because it has begun to write what stands after the gap anyway.

    It is the beginning of the suffix, blanks and line ends included: as many whole lines of it as hold
    ``ECHO_CHARACTERS`` characters that are not blank, at most ``ECHO_LIMIT`` characters. A suffix with less in it ends
    nothing.

    Returns:
        One string or none, to be put among the stop strings.
    """
    seen = end = 0
    for line in suffix[:ECHO_LIMIT].splitlines(keepends=True):
        seen += sum(not character.isspace() for character in line)
        end += len(line)
        if seen >= ECHO_CHARACTERS:
            return (suffix[:end].rstrip(),)
    return ()


def _clipped(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int]]:
    """Both within the room; what one does not need of its share the other has."""
    if len(before) + len(after) <= room:
        return before, after
    share = max(math.ceil(room * PREFIX_SHARE), room - len(after))
    if len(before) <= share:
        return before, after[: room - len(before)]
    return before[_cut(len(before), share, share // STEPS) :], after[: room - share]


def _cut(length: int, most: int, step: int) -> int:
    """How much goes from the left, a multiple of ``step``, so that at most ``most`` stays."""
    return max(math.ceil((length - most) / max(step, 1)) * max(step, 1), 0)
