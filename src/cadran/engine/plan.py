"""What the next pass reads: a budget of tokens dealt to answers that grow, then to prompts in order of arrival."""

from collections.abc import Callable
from itertools import takewhile
from time import perf_counter

from cadran.engine.answer import Answer, State
from cadran.engine.block_tables import Piece
from cadran.engine.depth import PassCost
from cadran.engine.residents import Residents

# Most tokens of a prompt in a step when log-probabilities of each are wanted: their logits are large.
SCORED_AT_ONCE = 64
MOST_BURST = 256


class Planner:
    """Deals out the tokens of a step.

    Args:
        residents: who has blocks.
        cost: of passes.
        budget: most tokens of a step.
        burst_seconds: about how long the runner may decode without coming back.
        vocabulary: guesses outside it are dropped.
    """

    def __init__(
        self, residents: Residents, cost: PassCost, budget: int, burst_seconds: float, vocabulary: int
    ) -> None:
        self._residents, self._cost, self._budget = residents, cost, budget
        self._burst_seconds, self._vocabulary = burst_seconds, vocabulary
        self._turn = 0

    def plan(self, begin: Callable[[Answer], bool]) -> list[Piece]:
        """The pieces of the next pass.

        Args:
            begin: starts the first of those that wait; False when there is no room for it.
        """
        left, residents, size = self._budget, self._residents, self._residents.block_size
        pieces: list[Piece] = []
        for answer in self._in_turn():
            if not left:
                break
            if answer.state is not State.RUNNING or (answer.borrowed and not residents.own_tail(answer)):
                continue
            count = min(len(answer.ids) - answer.kept, left)
            end = answer.kept + count
            if end <= len(answer.blocks) * size or residents.grow(answer, end):
                pieces.append(Piece(answer, count))
                left -= count
        for piece in pieces:
            if piece.answer.drafter is not None:
                left -= self._guess(piece, left, len(pieces))
        for answer in list(residents.reading):
            if left and answer.state is State.READING:
                left -= self._read_on(answer, left, pieces)
        while left and residents.waiting and begin(answer := residents.waiting[0]):
            # Whoever starts is the youngest, so it puts nobody back.
            if answer.state is State.READING:
                left -= self._read_on(answer, left, pieces)
        pieces = [piece for piece in pieces if piece.stands]
        for piece in pieces:
            piece.close()
        return pieces

    def burst(self, answers: list[Answer]) -> int:
        """How many tokens to decode of each answer without coming back, where nothing else is to be done.

        As the time and the answer with the least left allow, in blocks that no answer has.

        Args:
            answers: that read their last token, for which they have room.
        """
        seconds = self._cost.estimate(len(answers))
        if seconds is None:
            return 1
        steps = min([answer.limit - len(answer.ids) for answer in answers])
        steps = max(1, min(steps, MOST_BURST, int(self._burst_seconds / seconds)))
        residents, size = self._residents, self._residents.block_size
        while steps > 1:
            short = [answer for answer in answers if answer.kept + steps > len(answer.blocks) * size]
            missing = sum([residents.needed(answer.kept + steps) - len(answer.blocks) for answer in short])
            if missing <= residents.pool.available:
                for answer in short:
                    if not residents.grow_idly(answer, answer.kept + steps):
                        steps = min(steps, len(answer.blocks) * size - answer.kept)
                break
            steps //= 2
        return steps

    def _in_turn(self) -> list[Answer]:
        """The answers that grow, by arrival; where the budget is too small for all, those first that had no turn."""
        order = list(self._residents.running)
        if len(order) > self._budget:
            self._turn %= len(order)
            order = order[self._turn :] + order[: self._turn]
            self._turn += self._budget
        return order

    def _read_on(self, answer: Answer, left: int, pieces: list[Piece]) -> int:
        """Plan the next piece of a prompt; returns its tokens, 0 when there is no room for one."""
        count = min(len(answer.ids) - answer.kept, left)
        if answer.scored and not answer.complete:
            count = min(count, SCORED_AT_ONCE + max(0, answer.wanted - 1 - answer.kept))
        if not self._residents.grow(answer, answer.kept + count):
            count = len(answer.blocks) * self._residents.block_size - answer.kept
        if count:
            pieces.append(Piece(answer, count))
        return count

    def _guess(self, piece: Piece, left: int, answers: int) -> int:
        """Add guesses to a piece of an answer that grows; returns how many. They take blocks from nobody."""
        answer, length = piece.answer, len(piece.answer.ids)
        if not piece.stands or answer.finish is not None or answer.kept + piece.count < length:
            return 0
        assert answer.depth is not None and answer.drafter is not None
        most = min(left, answer.limit - length - 1)
        most = min(most, answer.depth.choose(self._cost, answers, length)) if most > 0 else 0
        if most < 1:
            return 0
        start = perf_counter()
        drafts = answer.drafter.propose(answer.ids, most)[:most]
        self._cost.record_drafting(len(drafts), perf_counter() - start)
        drafts = list(takewhile(lambda token: 0 <= token < self._vocabulary, drafts))
        if not self._residents.grow_idly(answer, length + len(drafts)):
            drafts = drafts[: max(0, len(answer.blocks) * self._residents.block_size - length)]
        piece.drafts = drafts
        return len(drafts)
