"""The requests of llama.cpp's own interface: ``POST /completion`` and ``POST /infill``. Source: api-contracts 8."""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from cadran.engine.engine import Engine
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.ide.answer_limits import AnswerLimits
from cadran.serve.ide.gap import FimPrompt, Gap
from cadran.serve.ide.open_body import OpenBody

INFILL_MIN_P = 0.2
"""What stands for llama.cpp's sampler ``infill``, whose point is to take no unlikely token."""
LARGEST = 2**31 - 1
_FIELDS = {"typ_p": "typical_p", "xtc": "xtc_probability"}
"""Samplers whose names are not those of their fields."""

Prompt = tuple[int, ...]


class NativeFields(OpenBody):
    """What both requests have, with llama.cpp's defaults. Unknown fields are passed over."""

    model: str = ""
    stream: bool = False
    n_predict: int | None = None
    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int = -1
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    logit_bias: list[list[Any]] | dict[str, float | bool] | None = None
    n_probs: int = Field(default=0, ge=0, le=64)
    samplers: list[str] | str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    response_fields: list[str] | None = None
    lora: list[dict[str, Any]] | None = None
    n_indent: int = 0
    t_max_predict_ms: float = 0.0

    @property
    def predicted(self) -> int | None:
        """Most tokens of the answer; 0 only reads the prompt, None goes to the end of the context."""
        asked = self.n_predict if self.n_predict is not None else self.max_tokens
        return None if asked is None or asked < 0 else asked

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        return tuple(text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if text)

    def limits(self) -> AnswerLimits | None:
        """The further ends of an answer, None when none is asked for."""
        if self.n_indent <= 0 and not self.t_max_predict_ms > 0:
            return None
        seconds = self.t_max_predict_ms / 1000 if self.t_max_predict_ms > 0 else None
        return AnswerLimits(max(self.n_indent, 0), seconds)

    def adapter(self, names: Mapping[int, str]) -> str | None:
        """The adapter that ``lora`` puts on the model.

        Args:
            names: of the adapters of the server, ``MODEL:ADAPTER``, by the numbers that clients know them by.

        Raises:
            ApiError: several at once, in part, or one that is not there.
        """
        wanted = [entry for entry in self.lora or () if entry.get("scale", 1.0) != 0]
        if not wanted:
            return None
        id = wanted[0].get("id")
        if len(wanted) > 1 or wanted[0].get("scale", 1.0) != 1:
            raise ApiError("invalid", "one adapter at a time is applied, with the scale 1; leave others out of lora")
        if not isinstance(id, int) or id not in names:
            raise ApiError(
                "invalid", f"lora names the adapter {id!r}; /lora-adapters lists those there are", param="lora"
            )
        return names[id]

    def asked(
        self, prompt: Prompt, *, adapter: str | None = None, stop: Sequence[str] = (), stop_ids: Sequence[int] = ()
    ) -> GenerateRequest:
        """What it means.

        Args:
            prompt: as the model reads it.
            adapter: on the model.
            stop: further strings that end the answer.
            stop_ids: further ids that end it.

        Raises:
            ApiError: a bias for something that is no id, or two grammars.
        """
        predicted = self.predicted
        return GenerateRequest(
            model=self.model,
            prompt=prompt,
            sampling={"temperature": 0.0} if predicted == 0 else self.sampling(),
            max_tokens=1 if predicted == 0 else predicted,
            stop=(*self.stops, *stop),
            stop_ids=tuple(stop_ids),
            ignore_end=self.ignore_eos,
            grammar=None if predicted == 0 else self._grammar(),
            logprobs=self.n_probs > 0,
            top=self.n_probs,
            adapter=adapter,
        )

    def sampling(self) -> dict[str, Any]:
        """As ``GenerateRequest.sampling``. Of the filters only those count that ``samplers`` names, where it does."""
        named = self.samplers if isinstance(self.samplers, list) else None
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "top_n_sigma": 0.0, "xtc_probability": 0.0}
        chosen: dict[str, Any] = {
            "temperature": max(self.temperature, 0.0),
            "top_k": min(max(self.top_k, 0), LARGEST),
            "top_p": max(self.top_p, 1e-9),
            "min_p": max(self.min_p, 0.0),
            "typical_p": self.typical_p,
            "top_n_sigma": max(self.top_n_sigma, 0.0),
            "xtc_probability": self.xtc_probability,
            # From a half on two tokens cannot both be top choices: llama.cpp's way to turn it off.
            "xtc_threshold": min(self.xtc_threshold, 1.0),
        }
        if named is not None:
            names = {_FIELDS.get(name, name) for name in named}
            chosen |= {name: value for name, value in off.items() if name not in names}
            if "temperature" not in names:
                chosen["temperature"] = 1.0
            if "infill" in names:
                chosen["min_p"] = max(chosen["min_p"], INFILL_MIN_P)
        if self.repeat_last_n != 0:  # -1 looks at everything
            chosen |= {
                "repetition_penalty": self.repeat_penalty,
                "presence_penalty": self.presence_penalty,
                "frequency_penalty": self.frequency_penalty,
                "penalty_window": max(self.repeat_last_n, 0),
            }
        if self.dry_multiplier > 0 and self.dry_base >= 1:
            chosen |= {
                "dry_multiplier": self.dry_multiplier,
                "dry_base": self.dry_base,
                "dry_allowed_length": max(self.dry_allowed_length, 1),
            }
        if self.mirostat:
            chosen |= {
                "mirostat": self.mirostat, "mirostat_tau": self.mirostat_tau, "mirostat_eta": self.mirostat_eta
            }  # fmt: skip
        chosen["seed"] = secrets.randbits(63) if self.seed < 0 else self.seed % 2**64
        if self.logit_bias:
            chosen["logit_bias"] = tuple(self._biases())
        return chosen

    def _biases(self) -> list[tuple[int, float]]:
        given = self.logit_bias or {}
        pairs = list(given.items()) if isinstance(given, Mapping) else [tuple(pair) for pair in given]
        found = []
        for pair in pairs:
            match pair:
                case (int(id) | str(id), False):
                    bias = -math.inf
                case (int(id) | str(id), int(bias) | float(bias)):
                    pass
                case _:
                    raise ApiError("invalid", "logit_bias is a list of [id, bias]; mend it", param="logit_bias")
            text = str(id).strip()
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                raise ApiError("invalid", f"logit_bias names {text[:40]!r}; give ids of tokens", param="logit_bias")
            found.append((int(text), float(bias)))
        return found

    def _grammar(self) -> dict[str, Any] | None:
        if self.grammar and self.json_schema is not None:
            raise ApiError("invalid", "give a grammar or a json_schema, not both", param="grammar")
        if self.json_schema is not None:
            return {"json_schema": self.json_schema}
        return {"ebnf": self.grammar} if self.grammar else None


class CompletionRequest(NativeFields):
    """The body of ``POST /completion``."""

    prompt: str | list[Any] = ""

    def prompts(self) -> tuple[list[Any], bool]:
        """The prompts, and whether it is a list of them; each is a text, or a list of ids and texts.

        Raises:
            ApiError: it is something else.
        """
        prompt = self.prompt
        several = isinstance(prompt, list) and bool(prompt) and not any(isinstance(part, int) for part in prompt)
        prompts = list(prompt) if several else [prompt]
        for one in prompts:
            parts = one if isinstance(one, list) else [one]
            known = all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts)
            if not known or not isinstance(one, str | list):
                raise ApiError("invalid", "a prompt is a text, or a list of ids and texts; mend it", param="prompt")
        return prompts, several


class ExtraFile(OpenBody):
    """Another file of the repository, or a part of one."""

    filename: str = ""
    text: str = ""


class InfillRequest(NativeFields):
    """The body of ``POST /infill``."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] | None = None
    prompt: str = ""
    repo_name: str | None = None

    def gap(self) -> Gap:
        """What is to be filled; ``prompt`` is what stands between the prefix and the cursor."""
        extra = [(file.filename, file.text) for file in self.input_extra or ()]
        return Gap(self.input_prefix + self.prompt, self.input_suffix, extra, self.repo_name)

    def filled(self, prompt: FimPrompt, adapter: str | None) -> GenerateRequest:
        """What it means, once the prompt is made."""
        return self.asked(prompt.ids, adapter=adapter, stop=prompt.stop, stop_ids=prompt.stop_ids)


def prompt_ids(engine: Engine, prompt: Any) -> Prompt:
    """Ids of a prompt of ``CompletionRequest.prompts``; marks in its texts are special, as templates need it.

    What the model was taught that a text begins with is put before a text that has it not, and never before an id.
    """
    opening = engine.opening_ids
    if isinstance(prompt, str):
        ids = engine.tokenizer.encode(prompt, special=True)
        return tuple(ids if ids[: len(opening)] == opening else [*opening, *ids])
    ids = []
    for part in prompt:
        ids += [part] if isinstance(part, int) else engine.tokenizer.encode(part, special=True)
    begins = not prompt or isinstance(prompt[0], int) or ids[: len(opening)] == opening
    return tuple(ids if begins else [*opening, *ids])
