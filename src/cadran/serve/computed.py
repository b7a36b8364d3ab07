"""What was computed for a request, as those who count are told of it: metrics, accounts, limits, log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Computed:
    """What an exchange or a loan took; of one that was cancelled, what is known.

    Attributes:
        model: name of the model that computed.
        prompt_tokens, cached_tokens, generated_tokens: counts.
        queued, loaded: seconds of waiting for a place, and for the model.
        first_token: seconds from having both to the first token; None when there was none.
        seconds: from the beginning of the waiting to the end.
        outcome: ``done``, ``failed`` or ``cancelled``.
        stamps: when each piece of a lone answer came, by ``perf_counter``; empty where the pieces of several are mixed.
        asked: the messages or prompt, for a log that wants them; None where there are none to be shown.
    """

    model: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queued: float
    loaded: float
    first_token: float | None
    seconds: float
    outcome: str
    stamps: Sequence[float] = ()
    asked: Any = None

    @property
    def prefill(self) -> float:
        """Seconds of reading: all of them where nothing was to be written."""
        if self.first_token is None and not self.generated_tokens:
            return self.seconds - self.queued - self.loaded
        return self.first_token or 0.0

    @property
    def decode(self) -> float:
        """Seconds of writing."""
        return max(0.0, self.seconds - self.queued - self.loaded - self.prefill)
