"""Fields of a request that only mean something in the words of a model's vocabulary: they become biases of its ids."""

import math
from collections.abc import Sequence
from dataclasses import replace

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.openai.sampling_fields import SamplingFields
from cadran.serve.service import Service
from cadran.tokenizer.tokenizer import Tokenizer


async def understood(service: Service, fields: SamplingFields, request: GenerateRequest) -> GenerateRequest:
    """The request with those fields put into its sampling; the model is opened where one of them is there.

    Raises:
        ApiError: no such model, or what is asked cannot be had.
    """
    if not fields.needs_vocabulary:
        return request
    async with service.shelf.lend(service.shelf.resolve(request.model, request.adapter)) as served:
        return with_vocabulary(request, fields, served.engine.tokenizer)


def with_vocabulary(request: GenerateRequest, fields: SamplingFields, tokenizer: Tokenizer) -> GenerateRequest:
    """As ``understood``, with the vocabulary at hand.

    Raises:
        ApiError: a word is several tokens long, or an id is not there.
    """
    sampling = dict(request.sampling)
    biases: dict[int, float] = dict(sampling.get("logit_bias", ()))
    if fields.allowed_token_ids:
        allowed, size = set(fields.allowed_token_ids), tokenizer.vocabulary_size
        if max(allowed) >= size:
            raise ApiError(
                "invalid",
                f"allowed_token_ids names {max(allowed)} and the vocabulary ends at {size - 1}",
                param="allowed_token_ids",
            )
        biases |= {id: -math.inf for id in range(size) if id not in allowed}
    for word in fields.bad_words or ():
        for id in _forms(word, tokenizer):
            biases[id] = -math.inf
    if biases:
        sampling["logit_bias"] = tuple(biases.items())
    if fields.dry_multiplier and fields.dry_sequence_breakers:
        sampling["dry_breakers"] = tuple(
            id for text in fields.dry_sequence_breakers for id in _single(text, tokenizer, "dry_sequence_breakers")
        )
    return replace(request, sampling=sampling)


def _forms(word: str, tokenizer: Tokenizer) -> Sequence[int]:
    """The ids of a word, at the beginning of a text and after a blank."""
    ids = _single(word, tokenizer, "bad_words")
    after = tokenizer.encode(f" {word}")
    return (*ids, *after) if len(after) == 1 else ids


def _single(text: str, tokenizer: Tokenizer, field: str) -> Sequence[int]:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise ApiError(
            "invalid", f"{field} holds {text[:40]!r}, which is {len(ids)} tokens; only single tokens can be given here",
            param=field,
        )  # fmt: skip
    return ids
