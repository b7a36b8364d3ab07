"""How much each API key may ask: requests, and generated tokens, a minute.

A bucket for each: full at first, filled again evenly. Tokens are known only when an answer is over, so that bucket may
fall below empty, and the key waits until the debt is paid. Every process counts for itself.
"""

from collections.abc import Callable
from time import monotonic

from cadran.serve.api_error import ApiError
from cadran.serve.state.api_key import KnownKey

Clock = Callable[[], float]


class Bucket:
    """Holds what may be taken now.

    Args:
        per_minute: how much it holds, and how much flows in in a minute.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Clock = monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._at = float(per_minute), clock()

    def wait(self) -> float:
        """Seconds until one can be taken; 0 for now."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return max(0.0, (1 - self._level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Take, also more than there is."""
        self._level -= amount


class RateLimits:
    """The buckets of all keys.

    Args:
        requests: a minute, of keys without a limit of their own; None for none.
        tokens: the same for generated tokens.
        clock: seconds.

    Attributes:
        refused: how many requests were.
    """

    def __init__(self, requests: int | None, tokens: int | None, clock: Clock = monotonic) -> None:
        self._requests, self._tokens, self._clock = requests, tokens, clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self.refused = 0

    def admit(self, key: KnownKey) -> None:
        """Count a request.

        Raises:
            ApiError: it is too much; ``retry_after`` says when it is not.
        """
        requests = self._bucket(key, "requests", key.requests_per_minute or self._requests)
        tokens = self._bucket(key, "generated tokens", key.tokens_per_minute or self._tokens)
        for bucket, name in ((requests, "requests"), (tokens, "generated tokens")):
            if bucket is not None and (seconds := bucket.wait()) > 0:
                self.refused += 1
                raise ApiError(
                    "limited",
                    f"the key {key.name} may use {bucket.per_minute} {name} a minute; try again in {seconds:.0f} s",
                    retry_after=max(1.0, float(int(seconds) + 1)),
                )
        if requests is not None:
            requests.take(1)

    def spend(self, key: KnownKey, tokens: int) -> None:
        """Account for generated tokens."""
        if (bucket := self._bucket(key, "generated tokens", key.tokens_per_minute or self._tokens)) is not None:
            bucket.wait()  # first what has flowed in
            bucket.take(tokens)

    def _bucket(self, key: KnownKey, what: str, limit: int | None) -> Bucket | None:
        place = (key.hash, what)
        if limit is None:
            self._buckets.pop(place, None)
            return None
        bucket = self._buckets.get(place)
        if bucket is None or bucket.per_minute != limit:
            bucket = self._buckets[place] = Bucket(limit, self._clock)
        return bucket
