"""Tokens with their log-probabilities, as chat and plain completions tell them. Source: api-contracts 1.2 and 2."""

from collections.abc import Sequence
from typing import Any

from cadran.engine.request import Scored
from cadran.tokenizer.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not know."""


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Scored], top: int) -> list[dict[str, Any]]:
    """``choices[].logprobs.content``; a token that is no whole character has replacement text and its true bytes."""
    return [
        _entry(tokenizer, scored.token, scored.logprob)
        | {"top_logprobs": [_entry(tokenizer, id, logprob) for id, logprob in scored.top[:top]]}
        for scored in tokens
    ]


def finite(logprob: float | None) -> float:
    """A number that JSON can hold."""
    return LOWEST if logprob is None else max(logprob, LOWEST)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token alone."""
    return tokenizer.token_bytes(token).decode("utf-8", errors="replace")


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode("utf-8", errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}
