"""One answer to a request: its tokens, the blocks that keep them, and the choice of the next ones.

What the tokens are depends on the request alone: they are chosen one after the other from the logits of each place,
whether those came one at a time, as drafts that turned out right, or after the answer was put back and read again.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt

from cadran.engine.depth import Depth
from cadran.engine.grammar import Mask, Matcher
from cadran.engine.request import Finish, Request, Scored
from cadran.engine.sampler import Sampler, score
from cadran.engine.speculation import Drafter
from cadran.errors import UserError

Logits = npt.NDArray[np.float32]


class State(Enum):
    """Where an answer stands."""

    NEW = "new"
    """Another answer reads the prompt."""
    WAITING = "waiting"
    """It has no blocks, and needs some."""
    READING = "reading"
    """Its prompt, or itself after it was put back, is being read."""
    RUNNING = "running"
    """It grows."""
    OVER = "over"


class Answer:
    """A sequence that grows.

    Args:
        request: what is answered.
        index: which of its answers.
        serial: of the request; requests and then answers are ordered by arrival.
        limit: most tokens of prompt and answer together.

    Attributes:
        ids: the prompt and all tokens so far.
        blocks: position p is kept in ``blocks[p // block_size]``.
        kept: how many positions are kept; the ids behind them are still to be read.
        borrowed: the last block is filled in part and another answer may write behind that, so it must be copied first.
        held: how many of the last ids were forced and wait for their log-probabilities.
        scored: the prompt's tokens with log-probabilities (the first has none) where wanted; the first answer's.
        fresh: tokens that nobody was told of yet.
        complete: whether the prompt was read.
        dropped: whether nobody wants to hear of it.
        early: how many tokens must still come before a stop id may.
        reported: whether anything was said of it.
    """

    __slots__ = (
        "blocks",
        "borrowed",
        "complete",
        "depth",
        "drafter",
        "dropped",
        "early",
        "finish",
        "fresh",
        "held",
        "ids",
        "index",
        "kept",
        "limit",
        "matcher",
        "message",
        "order",
        "reported",
        "request",
        "row",
        "sampler",
        "scored",
        "state",
        "stops",
    )

    def __init__(self, request: Request, index: int, serial: int, limit: int) -> None:
        self.request, self.index, self.order, self.limit = request, index, (serial, index), limit
        self.ids = list(request.prompt)
        self.blocks: list[int] = []
        self.kept = self.held = 0
        self.borrowed = self.complete = self.dropped = self.reported = False
        self.row = -1
        self.state = State.NEW
        self.stops = frozenset(request.stop_ids)
        self.early = request.params.min_tokens if self.stops else 0
        self.fresh: list[Scored] = []
        self.scored: list[Scored] = []
        if request.prompt_logprobs and index == 0:
            self.scored = [Scored(token) for token in request.prompt[: request.scored_from]]
        self.finish: Finish | None = None
        self.message: str | None = None
        self.sampler: Sampler | None = None
        self.matcher: Matcher | None = None
        self.drafter: Drafter | None = None
        self.depth: Depth | None = None

    @property
    def plain(self) -> bool:
        """Whether the runner can choose without asking here after each token."""
        request = self.request
        return request.grammar is None and not request.logprobs and not request.top and not self.early

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.finish is not None and not self.held

    @property
    def failed(self) -> bool:
        """Whether it ended with an error; its keys and values may be unsound."""
        return self.finish == "error"

    @property
    def wanted(self) -> int:
        """Index of the first token whose logits are needed: of the prompt, forced, or the next one."""
        if self.scored and len(self.scored) < len(self.request.prompt):
            return len(self.scored)
        return len(self.ids) - self.held

    def begin(self) -> None:
        """Make the sampler and the matcher, and take what the grammar forces before anything is chosen."""
        if self.sampler is not None:
            return
        with _Failing(self):
            self.sampler = Sampler(self.request.params, self.request.prompt, self.index)
            if self.request.grammar is not None:
                self.matcher = self.request.grammar.matcher(self.request.stop_ids)
                self._take_forced()

    def fork(self, lead: "Answer", length: int, opening: list[Scored], share: Callable[[int], None]) -> None:
        """Go on from a prompt that another answer to the same request has read.

        Args:
            lead: that answer.
            length: its tokens by then, the prompt and what the grammar forced.
            opening: the forced ones.
            share: becomes a user of a block.
        """
        with _Failing(self):
            self.sampler = Sampler(self.request.params, self.request.prompt, self.index)
            if self.request.grammar is not None:
                self.matcher = self.request.grammar.matcher(self.request.stop_ids)
                self._take_forced()
        self.ids = lead.ids[:length]
        self.fresh, self.held = list(opening), 0
        self.blocks, self.kept = list(lead.blocks), lead.kept
        for block in self.blocks:
            share(block)
        self.complete, self.borrowed = True, True

    def advance(self, rows: Logits, first: int, drafts: Sequence[int] = ()) -> int:
        """Choose what the logits allow.

        Args:
            rows: shape (R, V); row i is of the token with index ``first + i``, the last ones after the drafts.
            first: index that the first row belongs to.
            drafts: guesses that were read behind the last id; empty unless all ids were read.

        Returns:
            How many of the drafts the answer goes on with; their keys and values are right.
        """
        known, stood = self.kept, 0
        with _Failing(self):
            while self.finish is None or self.held:
                ready = known + stood
                self._settle(rows, first, ready)
                if self.finish is not None or len(self.ids) != ready:
                    break
                self._choose(rows[ready - first])
                while stood < len(drafts) and known + stood < len(self.ids):
                    if self.ids[known + stood] != drafts[stood]:
                        break
                    stood += 1
        return stood

    def settle(self, rows: Logits, first: int) -> None:
        """Score the prompt's tokens and the forced ones as far as their logits have come; arguments of ``advance``."""
        with _Failing(self):
            last = min(self.kept + 1, len(self.request.prompt))
            while self.scored and len(self.scored) < last:
                place = len(self.scored)
                self.scored.append(score(rows[place - first], self.ids[place], self.request.top))
            self._settle(rows, first, self.kept)

    def take(self, token: int) -> None:
        """Go on with a token that was accepted by the sampler."""
        if token in self.stops:
            self.finish = "stop"
            return
        self.ids.append(token)
        if self.early:
            self.early -= 1
        if self.matcher is not None:
            self.matcher.accept(token)
            if self.matcher.ended:
                self.finish = "stop"
        if self.finish is None and len(self.ids) >= self.limit:
            self.finish = "length"

    def fail(self, message: str) -> None:
        """End with an error."""
        self.finish, self.message, self.held = "error", message, 0

    def _choose(self, row: Logits) -> None:
        assert self.sampler is not None
        request, length = self.request, len(self.ids)
        mask = self._mask(len(row))
        chosen = self.sampler.choose(row, length, mask, request.top, request.logprobs or request.top > 0)
        self.sampler.accept(chosen.token)
        self.take(chosen.token)
        if len(self.ids) > length:
            self.fresh.append(chosen)
        if self.matcher is not None and self.finish is None:
            self._take_forced()

    def _mask(self, width: int) -> Mask | None:
        """What may come next, None for everything."""
        mask = self.matcher.mask() if self.matcher is not None else None
        if not self.early:
            return mask
        going = np.full(-(-width // 32), 2**32 - 1, np.uint32) if mask is None else mask.copy()
        for id in self.stops:
            if id // 32 < len(going):
                going[id // 32] &= ~np.uint32(1 << id % 32)
        return going if mask is None or going.any() else mask

    def _take_forced(self) -> None:
        """Go on with what must come, which is read together with what was chosen before it."""
        assert self.sampler is not None and self.matcher is not None
        scores = self.request.logprobs or self.request.top > 0
        for token in self.matcher.forced():
            length = len(self.ids)
            self.sampler.accept(token)
            self.take(token)
            if len(self.ids) > length:
                if scores:
                    self.held += 1
                else:
                    self.fresh.append(Scored(token))
            if self.finish is not None:
                break

    def _settle(self, rows: Logits, first: int, ready: int) -> None:
        while self.held and (place := len(self.ids) - self.held) <= ready:
            self.fresh.append(score(rows[place - first], self.ids[place], self.request.top))
            self.held -= 1


class _Failing:
    """What a user can mend ends this answer, and no other."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError):
            self._answer.fail(str(error))
            return True
        return False
