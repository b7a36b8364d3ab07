"""How many tokens to guess: what a pass costs, measured, against how many guesses turn out right.

Where a pass is bound by reading the weights, verifying a few tokens costs hardly more than one; where they are in the
cache, nearly as much as one after the other. So nothing is assumed: the depth is 0 where guessing does not pay, and it
is tried again now and then.
"""

from collections.abc import Mapping

MOST_TOKENS = 128
MOST_DRAFTS = 16
# Of a pass with one token more, relative to a pass with one, until it was measured.
UNMEASURED = 0.15
LEAST_PATIENCE, MOST_PATIENCE = 32, 1024


class PassCost:
    """Seconds of a forward pass by its number of tokens, and of guessing one.

    Args:
        seconds: known from the start, by number of tokens.

    Attributes:
        drafting: seconds to guess a token.
    """

    def __init__(self, seconds: Mapping[int, float] | None = None) -> None:
        self._seconds = dict(seconds or {})
        self.drafting = 0.0
        self.version = 0

    def record(self, tokens: int, seconds: float) -> None:
        """A pass was measured; one that was disturbed does not count for long."""
        if not 1 <= tokens <= MOST_TOKENS or seconds <= 0:
            return
        known = self._seconds.get(tokens)
        if known is None:
            self._seconds[tokens] = seconds
            self.version += 1
        else:
            self._seconds[tokens] = known + (seconds - known) * (0.1 if seconds > known else 0.4)

    def record_drafting(self, tokens: int, seconds: float) -> None:
        """Guessing was measured."""
        if tokens:
            self.drafting += (seconds / tokens - self.drafting) * 0.2

    def estimate(self, tokens: int) -> float | None:
        """Seconds of a pass: measured, or drawn on from the nearest ones that were; None when nothing was."""
        if not self._seconds or tokens in self._seconds:
            return self._seconds.get(tokens)
        below = max((known for known in self._seconds if known < tokens), default=None)
        above = min((known for known in self._seconds if known > tokens), default=None)
        if below is None:
            assert above is not None
            return self._seconds[above] * (1 + UNMEASURED * (tokens - 1)) / (1 + UNMEASURED * (above - 1))
        if above is None:
            lowest = min(self._seconds)
            slope = UNMEASURED * self._seconds[below] / (1 + UNMEASURED * (below - 1))
            if lowest < below:
                slope = max(0.0, (self._seconds[below] - self._seconds[lowest]) / (below - lowest))
            return self._seconds[below] + slope * (tokens - below)
        share = (tokens - below) / (above - below)
        return self._seconds[below] * (1 - share) + self._seconds[above] * share


class Depth:
    """How many tokens to guess for the answers to one request.

    Args:
        most: never more than this.

    Attributes:
        acceptance: how probable it is that a guess is right when those before it were, a moving average.
    """

    def __init__(self, most: int = MOST_DRAFTS) -> None:
        self.acceptance = 0.6
        self._most = most
        self._best = 0
        self._basis: tuple[int, int] | None = None
        self._computed = 0
        self._tried, self._patience = 0, LEAST_PATIENCE

    def choose(self, cost: PassCost, tokens: int, length: int) -> int:
        """The number of guesses with the most tokens a second.

        Args:
            cost: of passes.
            tokens: in the pass without guesses, one of them of this answer.
            length: of the answer and its prompt; counts how long ago guessing was tried.
        """
        if self._basis != (tokens, cost.version) or length - self._computed >= LEAST_PATIENCE:
            self._basis, self._computed = (tokens, cost.version), length
            self._best = self._compute(cost, tokens)
        if self._best:
            return self._best
        if length - self._tried >= self._patience:
            self._tried = length
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            return min(2, self._most)
        return 0

    def update(self, drafted: int, accepted: int, length: int) -> None:
        """Guesses were verified.

        Args:
            drafted: how many.
            accepted: how many of them were right; the next one was wrong, the others say nothing.
            length: of the answer and its prompt.
        """
        for right in range(min(accepted + 1, drafted)):
            self.acceptance += 0.15 * ((right < accepted) - self.acceptance)
        self._tried = length
        if accepted == drafted:
            self._patience = LEAST_PATIENCE
        self._basis = None

    def _compute(self, cost: PassCost, tokens: int) -> int:
        alone = cost.estimate(tokens)
        if alone is None:
            alone, drafting = 1.0, 0.0
        else:
            drafting = cost.drafting
        best, fastest = 0, tokens / alone
        expected = reached = 1.0
        for drafts in range(1, self._most + 1):
            reached *= self.acceptance
            expected += reached
            seconds = cost.estimate(tokens + drafts)
            if seconds is None:
                seconds = 1 + UNMEASURED * drafts
            # The other answers in the pass get one token each.
            speed = (tokens - 1 + expected) / (seconds + drafts * drafting)
            if speed > fastest:
                best, fastest = drafts, speed
        return best
