"""Guesses at the next tokens, which the model verifies several at a time (Leviathan et al. 2023; Chen et al. 2023).

A guess is kept only where it equals the token that is chosen from the model's own logits, drawn ones included, so the
answer is the same with and without. Prompt lookup guesses that what followed the last tokens before will follow again
(Saxena 2023); a draft model is a smaller one with the same vocabulary.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cadran.engine.kv_cache import BlockPool
from cadran.engine.request import Request
from cadran.engine.runner import Batch, Runner
from cadran.engine.sampler import Sampler, SamplingParams

READ_AT_ONCE = 512


class Drafter(Protocol):
    """Guesses for one answer."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Tokens that may follow.

        Args:
            ids: the prompt and the answer so far; those of an earlier call are a beginning of these.
            most: how many at most; fewer or none may be given.
        """
        ...

    def close(self) -> None:
        """The answer is over."""
        ...


DrafterOf = Callable[[Request], Drafter]
"""Makes the drafter of each answer, e.g. ``PromptLookup.of`` or ``DraftModel(runner).start``."""


class PromptLookup:
    """What followed the last few tokens when they stood there before, in the caller's guess or in the text so far.

    Args:
        guess: what the answer will probably contain.
        prompt: how many of the ids are the prompt.
        longest: most tokens compared; the longest match counts.
        shortest: fewest; single tokens match too often to mean anything.
    """

    def __init__(self, guess: Sequence[int] = (), prompt: int = 0, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError("shortest must be from 1 to longest")
        self._guess, self._prompt = tuple(guess), prompt
        self._lengths = range(longest, shortest - 1, -1)
        # Ends of every run of tokens: the last one in the text, all in the guess, where the next in order is meant.
        self._text: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._guesses: dict[tuple[int, ...], list[int]] = {}
        for end in range(1, len(self._guess) + 1):
            for length in self._lengths:
                if length <= end:
                    self._guesses.setdefault(self._guess[end - length : end], []).append(end)
        self._reached = 0

    @classmethod
    def of(cls, request: Request) -> "PromptLookup":
        """For an answer to a request."""
        return cls(request.guess, len(request.prompt))

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """See ``Drafter``."""
        for end in range(self._known + 1, len(ids)):
            for length in self._lengths:
                if length <= end:
                    self._text[tuple(ids[end - length : end])] = end
        self._known = max(self._known, len(ids) - 1)
        answered = len(ids) - self._prompt
        begun = answered < self._lengths[0] and tuple(ids[self._prompt :]) == self._guess[:answered]
        if begun and (drafts := list(self._guess[answered : answered + most])):
            return drafts
        for length in self._lengths:
            if length > len(ids):
                continue
            last = tuple(ids[len(ids) - length :])
            if len(ids) - length >= self._prompt and (ends := self._guesses.get(last)):
                # A place further on than the one before, where there is one: answers repeat a guess in its order.
                place = ends[bisect_left(ends, self._reached) % len(ends)]
                self._reached = place
                if drafts := list(self._guess[place : place + most]):
                    return drafts
            if (found := self._text.get(last)) is not None:
                drafts = list(ids[found : found + most])
                while len(drafts) < most:
                    # The run goes on into what is being guessed: a text that repeats itself.
                    drafts.append(drafts[found + len(drafts) - len(ids)])
                return drafts
        return []

    def close(self) -> None:
        """See ``Drafter``."""


class DraftModel:
    """A smaller model with the same vocabulary, which continues greedily.

    Args:
        runner: of that model, used by nobody else; the caller closes it.
        vocabulary: of the model that verifies.

    Raises:
        ValueError: the vocabularies differ.
    """

    def __init__(self, runner: Runner, vocabulary: int | None = None) -> None:
        if vocabulary is not None and runner.vocabulary != vocabulary:
            raise ValueError(f"a draft model of {runner.vocabulary} tokens cannot guess for one of {vocabulary}")
        self.runner = runner
        self.pool = BlockPool(runner.blocks)

    def start(self, request: Request) -> "DraftSequence":
        """The drafter of one answer."""
        return DraftSequence(self)


class DraftSequence:
    """One answer as the draft model has read it.

    Args:
        model: whose runner and blocks it uses.
    """

    def __init__(self, model: DraftModel) -> None:
        self._runner, self._pool = model.runner, model.pool
        self._sampler = Sampler(SamplingParams(temperature=0.0), ())
        self._blocks: list[int] = []
        # The tokens whose keys and values are kept; those before ``_sure`` are known to be the answer's.
        self._kept: list[int] = []
        self._sure = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """See ``Drafter``; none when the context or the blocks do not suffice."""
        most = min(most, self._runner.context - len(ids))
        if most < 1 or not self._grow(len(ids) + most):
            return []
        same = self._sure
        while same < len(self._kept) and same < len(ids) - 1 and self._kept[same] == ids[same]:
            same += 1
        for start in range(same, len(ids) - 1, READ_AT_ONCE):
            self._runner.step(self._batch(ids[start : min(start + READ_AT_ONCE, len(ids) - 1)], start, outputs=False))
        drafts: list[int] = []
        while len(drafts) < most:
            last = drafts[-1] if drafts else ids[-1]
            batch = self._batch([last], len(ids) - 1 + len(drafts))
            taken = self._runner.burst(batch, [self._sampler], [()], most - len(drafts))[:, 0].tolist()
            if not taken or min(taken) < 0:
                break
            drafts += taken
        self._kept = [*ids, *drafts[:-1]]
        self._sure = len(ids) - 1
        return drafts

    def close(self) -> None:
        """See ``Drafter``."""
        for block in self._blocks:
            self._pool.release(block)
        self._blocks, self._kept, self._sure = [], [], 0

    def _grow(self, positions: int) -> bool:
        while len(self._blocks) * self._runner.block_size < positions:
            block = self._pool.allocate()
            if block is None:
                # Half of a sequence helps nobody, and another answer may need the blocks.
                self.close()
                return False
            self._blocks.append(block)
        return True

    def _batch(self, ids: Sequence[int], start: int, outputs: bool = True) -> Batch:
        return Batch(
            ids=np.array(ids, np.int32),
            positions=np.arange(start, start + len(ids), dtype=np.int32),
            starts=np.array([0, len(ids)], np.int32),
            tables=np.array([self._blocks], np.int32),
            outputs=np.arange(len(ids) if outputs else 0, dtype=np.int32),
        )
