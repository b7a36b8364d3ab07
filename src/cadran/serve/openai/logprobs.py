"""Tokens with their log-probabilities, as chat and plain completions tell them. Source: api-contracts 1.2 and 2."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from cadran.engine.request import Scored
from cadran.tokenizer.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not know."""


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Scored], top: int) -> list[dict[str, Any]]:
    """``choices[].logprobs.content``; a token that is no whole character has replacement text and its true bytes."""
    texts: dict[int, tuple[str, list[int]]] = {}  # one for each token: the same ones are likely again and again

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        if token not in texts:
            raw = tokenizer.token_bytes(token)
            texts[token] = raw.decode("utf-8", errors="replace"), list(raw)
        text, bytes = texts[token]
        return {"token": text, "logprob": finite(logprob), "bytes": bytes}

    return [
        entry(scored.token, scored.logprob) | {"top_logprobs": [entry(id, logprob) for id, logprob in scored.top[:top]]}
        for scored in tokens
    ]


def prompt_logprobs(tokenizer: Tokenizer, tokens: Sequence[Scored], top: int) -> list[dict[str, dict[str, Any]] | None]:
    """A prompt's tokens as vLLM tells them: for each the likeliest ones and itself, by id; None for the first."""
    told: list[dict[str, dict[str, Any]] | None] = []
    for scored in tokens:
        if scored.logprob is None:
            told.append(None)
            continue
        ranks = {id: (rank, logprob) for rank, (id, logprob) in enumerate(scored.top, start=1)}
        wanted = dict.fromkeys((*(id for id, _ in scored.top[:top]), scored.token))
        told.append(
            {
                str(id): {
                    "logprob": finite(ranks[id][1] if id in ranks else scored.logprob),
                    "rank": ranks[id][0] if id in ranks else None,
                    "decoded_token": token_text(tokenizer, id),
                }
                for id in wanted
            }
        )
    return told


class TextLogprobs:
    """``choices[].logprobs`` of one plain completion, piece by piece: it knows how far the text has come.

    Offsets are in characters from the beginning of the text that is answered, its echo included. Keys of
    ``top_logprobs`` must differ, so a token that is no whole character is written as its bytes.

    Args:
        tokenizer: for the texts.
        top: likeliest tokens to report; the token itself is always among them.
    """

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        self._tokenizer, self._top, self._place = tokenizer, top, 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def echo(self, tokens: Sequence[Scored], text: str) -> dict[str, list[Any]]:
        """The prompt's own tokens; the first has no log-probability.

        Args:
            tokens: without what the server put before the text.
            text: as it is answered.
        """
        told = self._told(tokens, hidden=False)
        # Some vocabularies put a blank before the text that the text has not.
        surplus = self._place - len(text)
        told["text_offset"] = [max(0, offset - surplus) for offset in told["text_offset"]]
        if tokens:
            told["token_logprobs"][0] = told["top_logprobs"][0] = None
        self._place = len(text)
        self._decoder.reset()
        return told

    def more(self, tokens: Sequence[Scored]) -> dict[str, list[Any]]:
        """Tokens that were generated."""
        return self._told(tokens, hidden=True)

    def _told(self, tokens: Sequence[Scored], hidden: bool) -> dict[str, list[Any]]:
        told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for scored in tokens:
            name = self._name(scored.token)
            likeliest: dict[str, float] = {}
            for id, logprob in ((scored.token, scored.logprob), *scored.top[: self._top]):
                likeliest.setdefault(self._name(id), finite(logprob))
            told["tokens"].append(name)
            told["token_logprobs"].append(finite(scored.logprob))
            told["top_logprobs"].append(likeliest)
            told["text_offset"].append(self._place)
            if not (hidden and self._tokenizer.is_hidden(scored.token)):
                self._place += len(self._decoder.decode(self._tokenizer.token_bytes(scored.token)))
        return told

    def _name(self, token: int) -> str:
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def finite(logprob: float | None) -> float:
    """A number that JSON can hold."""
    return LOWEST if logprob is None else max(logprob, LOWEST)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token alone."""
    return tokenizer.token_bytes(token).decode("utf-8", errors="replace")
