"""Fields of a request that chat and plain completions share: how tokens are chosen, and how an answer ends.

Beside OpenAI's own, the names of llama.cpp and vLLM are understood. Every range is checked here, so that a refusal
names its field. Source: api-contracts 1.1.
"""

import math
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from cadran.serve.api_error import ApiError

LARGEST = 2**31 - 1
STOPS, STOP_CHARACTERS, BIASES = 256, 16_384, 4096
"""What one request may bring: each of its answers holds its own automaton of stop strings and its own biases."""

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "use_beam_search": (False,), "truncate_prompt_tokens": (), "chat_template": (), "structural_tag": (),
    "dynatemp_range": (0,), "tfs_z": (1,), "top_a": (0,), "smoothing_factor": (0,), "logits_processors": ([],),
    "audio": (), "web_search_options": (),
}  # fmt: skip
"""Vendors' fields that are not known here and would change the answer, with the values that change nothing."""

TokenId = Annotated[int, Field(ge=0, le=LARGEST)]
# The first wrong entry says enough: a complaint about each of millions would take gigabytes.
Ids = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]


class StreamOptions(BaseModel):
    """What a stream tells."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class StructuredOutputs(BaseModel):
    """vLLM's way to prescribe an answer; one of the fields."""

    model_config = ConfigDict(extra="allow")

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Any = None


class SamplingFields(BaseModel):
    """What both requests have. Unknown fields are passed over."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=LARGEST)
    max_tokens: int | None = Field(default=None, ge=-1, description="-1 for the rest of the context.")
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | Texts | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64, description="-1, as none, for a random one.")
    presence_penalty: float | None = Field(default=None, ge=-10, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-10, le=10)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=BIASES)
    top_k: int | None = Field(default=None, ge=-1, description="-1 and 0 keep all.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    top_n_sigma: float | None = Field(default=None, ge=-1, le=100, description="-1 and 0 keep all.")
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=10)
    repeat_last_n: int | None = Field(default=None, ge=-1, le=LARGEST, description="-1 for all, 0 for no penalty.")
    dry_multiplier: float | None = Field(default=None, ge=0, le=100)
    dry_base: float | None = Field(default=None, ge=1, le=10)
    dry_allowed_length: int | None = Field(default=None, ge=1, le=LARGEST)
    dry_sequence_breakers: list[str] | None = Field(default=None, max_length=256)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    mirostat: Literal[0, 2] | None = None
    mirostat_tau: float | None = Field(default=None, gt=0, le=50)
    mirostat_eta: float | None = Field(default=None, gt=0, le=1)
    min_tokens: int | None = Field(default=None, ge=0, le=LARGEST)
    ignore_eos: bool = False
    stop_token_ids: Ids | None = Field(default=None, max_length=1024)
    bad_words: Texts | None = Field(default=None, max_length=BIASES)
    allowed_token_ids: Ids | None = Field(default=None, min_length=1)
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    lora: str | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    return_token_ids: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer; empty ones end nothing.

        Raises:
            ApiError: there are too many, or they are too long.
        """
        stops = tuple(text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if text)
        if len(stops) > STOPS or sum(map(len, stops)) > STOP_CHARACTERS:
            raise ApiError(
                "invalid",
                f"stop holds more than {STOPS} strings or {STOP_CHARACTERS} characters; give fewer",
                param="stop",
            )
        return stops

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @field_validator("stream", "ignore_eos", mode="before")
    @classmethod
    def _no(cls, given: object) -> object:
        return False if given is None else given

    @field_validator("model", mode="before")
    @classmethod
    def _any(cls, given: object) -> object:
        return "" if given is None else given

    @field_validator("lora", mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        if isinstance(given, list) and given:
            raise PydanticCustomError("lora", "give the name of one adapter; /v1/models lists them")
        return given or None

    @property
    def needs_vocabulary(self) -> bool:
        """Whether a field can only be understood with the model's vocabulary; see ``vocabulary_fields``."""
        return bool(self.bad_words or self.allowed_token_ids or (self.dry_multiplier and self.dry_sequence_breakers))

    def check(self) -> None:
        """Refuse what cannot be had and would change the answer.

        Raises:
            ApiError: with the field's name.
        """
        extra = self.model_extra or {}
        for name, neutral in _NEUTRAL.items():
            if (value := extra.get(name)) is not None and value not in neutral:
                raise ApiError("invalid", f"{name} is not known here and would change the answer", param=name)
        if self.structured_outputs is not None and self.structured_outputs.structural_tag is not None:
            raise ApiError(
                "invalid", "structural_tag is not known here; give json, regex, choice or grammar",
                param="structured_outputs",
            )  # fmt: skip
        if self.min_tokens and self.max_tokens and 0 < self.max_tokens < self.min_tokens:
            raise ApiError("invalid", "min_tokens is more than max_tokens; give a smaller number", param="min_tokens")
        if self.prompt_logprobs is not None and self.stream:
            raise ApiError("invalid", "prompt_logprobs comes with whole answers only; leave stream out", param="stream")

    def sampling(self) -> dict[str, Any]:
        """As ``GenerateRequest.sampling``, with OpenAI's defaults: temperature 1, all of the probability, a fresh seed.

        Raises:
            ApiError: a bias for something that is no id, or out of range.
        """
        seed = self.seed if self.seed is not None and self.seed != -1 else secrets.randbits(64)
        chosen: dict[str, Any] = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else max(self.top_p, 1e-9),
            "seed": seed % 2**64,
        }
        for name in (
            "min_tokens", "presence_penalty", "frequency_penalty", "min_p", "typical_p", "dry_multiplier", "dry_base",
            "dry_allowed_length", "xtc_probability", "mirostat", "mirostat_tau", "mirostat_eta",
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                chosen[name] = value
        if self.top_k is not None:
            chosen["top_k"] = min(max(self.top_k, 0), LARGEST)
        if self.top_n_sigma is not None:
            chosen["top_n_sigma"] = max(self.top_n_sigma, 0.0)
        if self.xtc_threshold is not None:
            chosen["xtc_threshold"] = max(self.xtc_threshold, 1e-9)
        penalty = self.repetition_penalty if self.repetition_penalty is not None else self.repeat_penalty
        if penalty is not None:
            chosen["repetition_penalty"] = penalty
        if self.repeat_last_n == 0:  # nothing is looked at, so nothing is penalised
            chosen |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        elif self.repeat_last_n is not None:
            chosen["penalty_window"] = max(self.repeat_last_n, 0)
        if self.logit_bias:
            chosen["logit_bias"] = tuple(_biases(self.logit_bias))
        return chosen

    def prescribed(self) -> dict[str, Any] | None:
        """The grammar that one of the extensions asks for."""
        asked = self.structured_outputs or StructuredOutputs()
        schema = next((s for s in (asked.json_, self.guided_json, self.json_schema) if s is not None), None)
        regex = self.guided_regex if asked.regex is None else asked.regex
        choice = self.guided_choice if asked.choice is None else asked.choice
        rules = asked.grammar or self.guided_grammar or self.grammar
        if schema is not None:
            return {"json_schema": schema}
        if asked.json_object:
            return {"json_object": True}
        if regex is not None:
            return {"regex": regex}
        if choice is not None:
            return {"choice": choice}
        return {"ebnf": rules} if rules else None


def _biases(biases: Mapping[str, float]) -> list[tuple[int, float]]:
    found = []
    for name, bias in biases.items():
        text = name.strip()
        if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= LARGEST):
            raise ApiError("invalid", f"logit_bias names {name[:40]!r}; give ids of tokens", param="logit_bias")
        if not -100 <= bias <= 100:
            raise ApiError("invalid", f"logit_bias of {text} is {bias}; give -100 to 100", param="logit_bias")
        found.append((int(text), -math.inf if bias <= -100 else bias))
    return found
