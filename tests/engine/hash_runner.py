"""A model whose logits are a hash of the tokens as they stand in its own blocks.

A wrong table, a block that was given to somebody else, a missing or late copy or a guess left standing changes every
logit after it, so answers that are right prove that the blocks were.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cadran.engine.depth import PassCost
from cadran.engine.runner import Batch, Ints
from cadran.engine.sampler import Sampler
from cadran.errors import UserError

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A good hash of each number (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class HashRunner:
    """A ``Runner``. Half of a token's likelihood follows from the two tokens before it, so that guesses can be right.

    Args:
        blocks: how many.
        block_size: positions in each.
        context: most positions.
        vocabulary: of ids.
        salt: makes another model of it.
        broken: ids after which all logits are NaN.
    """

    name = "hash"
    width = 1

    def __init__(
        self,
        blocks: int = 1000,
        block_size: int = 4,
        context: int = 64,
        vocabulary: int = 11,
        salt: int = 0,
        broken: Sequence[int] = (),
    ) -> None:
        self.blocks, self.block_size, self.context, self.vocabulary = blocks, block_size, context, vocabulary
        self.memory = np.full((blocks, block_size, 2), -1, np.int64)  # token and position
        self.salt, self.broken = salt, set(broken)
        self.passes = self.tokens = 0

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        assert len(batch.starts) == len(batch.tables) + 1
        assert batch.starts[-1] == len(batch.ids) == len(batch.positions) > 0
        self.passes += 1
        self.tokens += len(batch.ids)
        result = np.zeros((len(batch.outputs), self.vocabulary), np.float32)
        row = 0
        for sequence, table in enumerate(batch.tables):
            start, end = batch.starts[sequence], batch.starts[sequence + 1]
            places = batch.positions[start:end]
            assert (np.diff(places) == 1).all() and places[-1] < self.context
            self.memory[table[places // self.block_size], places % self.block_size] = np.stack(
                [batch.ids[start:end], places], 1
            )
            before = np.arange(places[-1] + 1)
            seen = self.memory[table[before // self.block_size], before % self.block_size]
            assert (seen[:, 1] == before).all(), "a block holds positions of another sequence"
            while row < len(batch.outputs) and batch.outputs[row] < end:
                result[row] = self._logits(seen[: places[batch.outputs[row] - start] + 1, 0])
                row += 1
        assert row == len(batch.outputs)
        return result

    def _logits(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        if int(tokens[-1]) in self.broken:
            return np.full(self.vocabulary, np.nan)
        numbers = tokens.astype(np.uint64) + np.arange(len(tokens), dtype=np.uint64) * np.uint64(1000003)
        total = mixed(numbers * MULTIPLIER + np.uint64(self.salt)).sum(dtype=np.uint64)
        ids = np.arange(self.vocabulary, dtype=np.uint64)
        logits = (mixed(total + ids * MULTIPLIER) >> np.uint64(40)).astype(np.float64) / 2**24 * 3
        logits[int(tokens[-2:].sum() * 3 + 1) % self.vocabulary] += 2
        return logits

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        return self.step(batch)[:, :1]

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        assert steps >= 1 and len(samplers) == len(stops) == len(batch.tables)
        taken = np.full((steps, len(samplers)), -1, np.int32)
        for sequence, (sampler, stop) in enumerate(zip(samplers, stops, strict=True)):
            token, position = int(batch.ids[sequence]), int(batch.positions[sequence])
            for step in range(steps):
                one = Batch(
                    ids=np.array([token], np.int32),
                    positions=np.array([position + step], np.int32),
                    starts=np.array([0, 1], np.int32),
                    tables=batch.tables[sequence : sequence + 1],
                    outputs=np.array([0], np.int32),
                )
                (logits,) = self.step(one)
                if np.isnan(logits).any():
                    break
                token = sampler.choose(logits, position + step + 1).token
                sampler.accept(token)
                taken[step, sequence] = token
                if token in stop:
                    break
        return taken

    def copy(self, source: int, target: int, positions: int) -> None:
        assert source != target and 0 < positions < self.block_size
        self.memory[target] = -1
        self.memory[target, :positions] = self.memory[source, :positions]

    def read_block(self, block: int) -> bytes:
        return self.memory[block].tobytes()

    def write_block(self, block: int, data: bytes) -> None:
        if len(data) != self.memory[block].nbytes:
            raise UserError("the block has another length; save it again")
        self.memory[block] = np.frombuffer(data, np.int64).reshape(self.block_size, 2)

    def close(self) -> None:
        pass


class FixedCost(PassCost):
    """Costs that nobody measures, so that a test does the same each time."""

    def record(self, tokens: int, seconds: float) -> None:
        pass

    def record_drafting(self, tokens: int, seconds: float) -> None:
        pass


class CycleMatcher:
    """Matches runs of three: any token below the stop id, then the two after it in the circle, which are forced."""

    def __init__(self, vocabulary: int, stop: int, runs: int) -> None:
        self.vocabulary, self.stop, self.runs = vocabulary, stop, runs
        self.tokens: list[int] = []

    @property
    def ended(self) -> bool:
        return len(self.tokens) == 3 * self.runs

    @property
    def can_end(self) -> bool:
        return len(self.tokens) % 3 == 0 and len(self.tokens) > 0

    def mask(self) -> npt.NDArray[np.uint32]:
        assert not self.ended
        allowed = set(range(self.vocabulary)) - {self.stop} if len(self.tokens) % 3 == 0 else {self._next()}
        if self.can_end:
            allowed.add(self.stop)
        words = np.zeros(-(-self.vocabulary // 32), np.uint32)
        for token in allowed:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words

    def _next(self) -> int:
        return (self.tokens[-1] + 1) % self.stop

    def accept(self, token: int) -> None:
        assert self.mask()[token // 32] >> (token % 32) & 1, "a token that the grammar does not allow"
        self.tokens.append(token)

    def forced(self) -> list[int]:
        left = -len(self.tokens) % 3
        return [(self.tokens[-1] + i) % self.stop for i in range(1, left + 1)]


class CycleGrammar:
    """Grammar of ``CycleMatcher``, beginning with some tokens of a run when ``opening``."""

    def __init__(self, vocabulary: int, stop: int, runs: int = 3, opening: Sequence[int] = ()) -> None:
        self.arguments, self.opening = (vocabulary, stop, runs), opening

    def matcher(self, stop_ids: Sequence[int] | None = None) -> "CycleMatcher | OpenedMatcher":
        return (
            OpenedMatcher(CycleMatcher(*self.arguments), self.opening)
            if self.opening
            else CycleMatcher(*self.arguments)
        )


class OpenedMatcher(CycleMatcher):
    """As ``CycleMatcher``, but some tokens are forced before everything else."""

    def __init__(self, inner: CycleMatcher, opening: Sequence[int]) -> None:
        super().__init__(inner.vocabulary, inner.stop, inner.runs)
        self.opening = list(opening)

    def mask(self) -> npt.NDArray[np.uint32]:
        if not self.opening:
            return super().mask()
        words = np.zeros(-(-self.vocabulary // 32), np.uint32)
        words[self.opening[0] // 32] |= np.uint32(1 << self.opening[0] % 32)
        return words

    def accept(self, token: int) -> None:
        if self.opening:
            assert token == self.opening.pop(0)
        else:
            super().accept(token)

    def forced(self) -> list[int]:
        return list(self.opening) or super().forced()
