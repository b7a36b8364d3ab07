"""Fields of a request that chat and plain completions share: how tokens are chosen, and how an answer ends.

Beside OpenAI's own, the names of llama.cpp and vLLM are understood. Source: api-contracts 1.1.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from cadran.serve.api_error import ApiError


class StreamOptions(BaseModel):
    """What a stream tells."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class StructuredOutputs(BaseModel):
    """vLLM's way to prescribe an answer; one of the fields."""

    model_config = ConfigDict(extra="allow")

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class SamplingFields(BaseModel):
    """What both requests have. Unknown fields are passed over."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, ge=-10, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-10, le=10)
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    lora: str | None = None

    @field_validator("stop")
    @classmethod
    def _some(cls, stop: str | list[str] | None, info: ValidationInfo) -> str | list[str] | None:
        return [text for text in ([stop] if isinstance(stop, str) else stop) if text] if stop else None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        return tuple([self.stop] if isinstance(self.stop, str) else self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        """As ``GenerateRequest.sampling``, with OpenAI's defaults: temperature 1, all of the probability.

        Raises:
            ApiError: a bias for something that is no id.
        """
        chosen: dict[str, Any] = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else max(self.top_p, 1e-9),
        }
        for name in (
            "presence_penalty", "frequency_penalty", "min_p", "typical_p", "top_n_sigma", "dry_multiplier", "dry_base",
            "dry_allowed_length", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta",
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                chosen[name] = value
        if self.top_k is not None:
            chosen["top_k"] = max(self.top_k, 0)  # -1 is "all" for vLLM
        penalty = self.repetition_penalty if self.repetition_penalty is not None else self.repeat_penalty
        if penalty is not None:
            chosen["repetition_penalty"] = penalty
        if self.repeat_last_n is not None:
            chosen["penalty_window"] = max(self.repeat_last_n, 0)
        if self.seed is not None:
            chosen["seed"] = self.seed % 2**64
        if self.logit_bias:
            chosen["logit_bias"] = tuple(_biases(self.logit_bias))
        return chosen

    def prescribed(self) -> dict[str, Any] | None:
        """The grammar that one of the extensions asks for."""
        asked = self.structured_outputs
        schema = self.guided_json if asked is None or asked.json_ is None else asked.json_
        regex = self.guided_regex if asked is None or asked.regex is None else asked.regex
        choice = self.guided_choice if asked is None or asked.choice is None else asked.choice
        rules = self.guided_grammar if asked is None or asked.grammar is None else asked.grammar
        rules = rules or self.grammar
        if schema is not None:
            return {"json_schema": schema}
        if regex is not None:
            return {"regex": regex}
        if choice is not None:
            return {"choice": choice}
        return {"ebnf": rules} if rules else None


def _biases(biases: Mapping[str, float]) -> list[tuple[int, float]]:
    found = []
    for id, bias in biases.items():
        if not id.strip().isdigit():
            raise ApiError("invalid", f"logit_bias names {id!r}; give ids of tokens", param="logit_bias")
        found.append((int(id), -math.inf if bias <= -100 else bias))
    return found
