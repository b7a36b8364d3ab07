"""The input of a prediction, in the names that Llama-style models have at Replicate. Source: api-contracts 6.4."""

import math
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from cadran.serve.asked import GenerateRequest, Message
from cadran.serve.replicate.problem import InvalidField, InvalidInput

SYNONYMS = {"max_new_tokens": "max_tokens", "max_length": "max_tokens", "min_new_tokens": "min_tokens"}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 512.0 is an integer in JSON


Whole = Annotated[int, BeforeValidator(_whole)]
Texts = Annotated[list[str], Field(fail_fast=True)]

MOST_STOPPING = 10_000
"""Characters of all texts that end an answer: each is a state of the automaton that looks for them."""


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(strict=True)

    role: str
    content: str


class PredictionInput(BaseModel):
    """What a model is asked. Unknown names are passed over."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    prompt: str = Field(default="", description="What the model answers.")
    system_prompt: str = Field(default="", description="How the model should behave.")
    prompt_template: str = Field(
        default="",
        description="The whole prompt as the model reads it, with {prompt} and {system_prompt} in it; empty for the "
        "model's own chat template.",
    )
    messages: list[Turn] | None = Field(default=None, fail_fast=True, description="A conversation, in place of prompt.")
    max_tokens: Whole = Field(default=512, ge=1, description="Most tokens to generate.")
    min_tokens: Whole = Field(default=0, ge=-1, description="Fewest tokens to generate; 0 or -1 for no such limit.")
    temperature: float = Field(default=0.6, ge=0, le=10, description="Divides the logits; 0 takes the likeliest token.")
    top_p: float = Field(default=0.9, ge=0, le=1, description="Smallest share of probability that is kept.")
    top_k: Whole = Field(default=50, ge=-1, description="Number of likeliest tokens that are kept; 0 keeps all.")
    presence_penalty: float = Field(default=0.0, ge=-10, le=10, description="On tokens that the answer has already.")
    frequency_penalty: float = Field(default=0.0, ge=-10, le=10, description="On them, for each time.")
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=10, description="On all tokens so far; 1 is none.")
    length_penalty: float = Field(default=1.0, description="Has no effect without beam search.")
    stop_sequences: str | Texts = Field(default="", description="Texts that end the answer, with commas between.")
    seed: Whole | None = Field(default=None, description="Of the random numbers; empty for another one each time.")
    log_performance_metrics: bool = Field(default=False, description="Write tokens and seconds into the logs.")

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        texts = self.stop_sequences.split(",") if isinstance(self.stop_sequences, str) else self.stop_sequences
        return tuple(text for text in texts if text)

    def asked(self, model: str, chats: bool) -> GenerateRequest:
        """In nobody's words.

        Args:
            model: its name.
            chats: whether it knows turns.

        Raises:
            InvalidInput: it is asked what it cannot do.
        """
        return GenerateRequest(
            model=model,
            messages=self._conversation() if chats and not self.prompt_template else None,
            prompt=None if chats and not self.prompt_template else self._text(),
            sampling={
                "temperature": self.temperature,
                "top_p": max(self.top_p, 1e-9),
                "top_k": max(self.top_k, 0),
                "presence_penalty": self.presence_penalty,
                "frequency_penalty": self.frequency_penalty,
                "repetition_penalty": self.repetition_penalty,
                "min_tokens": max(self.min_tokens, 0),
                "seed": secrets.randbits(63) if self.seed is None else self.seed % 2**64,
            },
            max_tokens=self.max_tokens,
            stop=self.stops,
        )

    def _conversation(self) -> tuple[Message, ...]:
        turns: list[Message] = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        if self.messages is None:
            return (*turns, {"role": "user", "content": self.prompt})
        return (*turns, *({"role": turn.role, "content": turn.content} for turn in self.messages))

    def _text(self) -> str:
        """What is continued as it is."""
        if self.messages is not None:
            _refuse("messages", "cannot be put into a text; give a prompt")
        if self.prompt_template:
            if "{prompt}" not in self.prompt_template:
                _refuse("prompt_template", "must contain {prompt}")
            values = {"{prompt}": self.prompt, "{system_prompt}": self.system_prompt}
            # In one pass: what the prompt says of {system_prompt} is the user's text and no place to fill.
            return re.sub(r"\{(?:system_)?prompt\}", lambda found: values[found[0]], self.prompt_template)
        if self.system_prompt:
            _refuse("system_prompt", "this model only continues texts; put it into the prompt")
        return self.prompt


def read_input(given: Mapping[str, Any]) -> PredictionInput:
    """The input of a request. Null is what is absent.

    Raises:
        InvalidInput: names every field that is wrong.
    """
    present = {name: value for name, value in given.items() if value is not None}
    written: dict[str, str] = {}
    for synonym, name in SYNONYMS.items():
        if synonym in present:
            value = present.pop(synonym)
            if name not in present:
                present[name], written[name] = value, synonym
    try:
        read = PredictionInput.model_validate(present)
    except ValidationError as error:
        raise InvalidInput(
            [_invalid_field(detail, written) for detail in error.errors(include_input=False)[:20]]
        ) from None
    if "prompt" not in present and "messages" not in present:
        raise InvalidInput([InvalidField("required", "input", "prompt is required")])
    if read.prompt and read.messages is not None:
        _refuse("messages", "stands in place of prompt; give one of them")
    if read.min_tokens > read.max_tokens:
        _refuse("min_tokens", f"is more than max_tokens, which is {read.max_tokens}; give a smaller number")
    if sum(map(len, read.stops)) > MOST_STOPPING:
        _refuse("stop_sequences", f"may have {MOST_STOPPING} characters together")
    return read


def echoed(given: Mapping[str, Any], read: PredictionInput) -> dict[str, Any]:
    """What a prediction shows of its input: what was understood, and the plain values among the rest.

    Nested values of names that mean nothing here are left out, as are numbers that JSON cannot hold.
    """
    shown: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
            shown[name] = value
        elif name == "stop_sequences":
            shown[name] = list(value)
        elif name == "messages" and read.messages is not None:
            shown[name] = [turn.model_dump() for turn in read.messages]
    return shown


def _refuse(name: str, description: str) -> None:
    raise InvalidInput([InvalidField("invalid", f"input.{name}", description)])


_TYPES = {"greater_than_equal": "number_gte", "less_than_equal": "number_lte", "greater_than": "number_gt",
          "missing": "required"}  # fmt: skip


def _invalid_field(detail: ErrorDetails, written: Mapping[str, str]) -> InvalidField:
    place = [str(part) for part in detail["loc"]]
    place[0] = written.get(place[0], place[0])
    type = _TYPES.get(detail["type"], "invalid_type")
    said = detail["msg"]
    return InvalidField(type, ".".join(["input", *place]), said[:1].lower() + said[1:])
