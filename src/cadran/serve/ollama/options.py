"""``options`` of a request: how tokens are chosen, and how much. Source: api-contracts 7."""

import secrets
from typing import Any

from pydantic import Field

from cadran.serve.ide.open_body import OpenBody

LARGEST = 2**31 - 1


class Options(OpenBody):
    """With Ollama's defaults. What concerns its own machinery (``num_thread``, ``use_mmap``...) is passed over."""

    num_ctx: int = 0
    num_predict: int = -1
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    stop: list[str] | str = Field(default_factory=list)

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of an answer; -1 (no end) and -2 (as long as the context) both go to its end."""
        return self.num_predict if self.num_predict > 0 else None

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and answer; None for the model's own."""
        return self.num_ctx if self.num_ctx > 0 else None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        return tuple(text for text in ([self.stop] if isinstance(self.stop, str) else self.stop) if text)

    def sampling(self) -> dict[str, Any]:
        """As ``GenerateRequest.sampling``. Without a seed, or with a negative one, every answer is another."""
        chosen: dict[str, Any] = {
            "temperature": max(self.temperature, 0.0),
            "top_k": min(max(self.top_k, 0), LARGEST),
            "top_p": max(self.top_p, 1e-9),
            "min_p": max(self.min_p, 0.0),
            "typical_p": self.typical_p,
            "seed": secrets.randbits(63) if self.seed is None or self.seed < 0 else self.seed % 2**64,
        }
        if self.repeat_last_n != 0:  # -1 looks at everything
            chosen |= {
                "repetition_penalty": self.repeat_penalty,
                "presence_penalty": self.presence_penalty,
                "frequency_penalty": self.frequency_penalty,
                "penalty_window": max(self.repeat_last_n, 0),
            }
        if self.mirostat:
            chosen |= {
                "mirostat": self.mirostat, "mirostat_tau": self.mirostat_tau, "mirostat_eta": self.mirostat_eta
            }  # fmt: skip
        return chosen
