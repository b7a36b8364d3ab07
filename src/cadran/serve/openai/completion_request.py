"""The request of ``POST /v1/completions`` and what it means. Source: api-contracts 2."""

import asyncio
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.openai.sampling_fields import Ids, SamplingFields, Texts
from cadran.serve.openai.vocabulary_fields import with_vocabulary
from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service

DEFAULT_TOKENS = 16
"""OpenAI's, when ``max_tokens`` is absent."""


class CompletionRequest(SamplingFields):
    """The body."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True)] | None = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=1, le=1 << 16)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    add_special_tokens: bool | None = Field(default=None, description="False leaves out the beginning of a text.")

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each of the prompts."""
        match self.prompt:
            case None:
                return [""]
            case str():
                return [self.prompt]
            case [int(), *_] | []:
                return [self.prompt]  # type: ignore[list-item]
            case _:
                return list(self.prompt)  # type: ignore[arg-type]

    @property
    def scoring(self) -> bool:
        """Whether nothing is to be generated: the prompt is read, and told with ``echo``."""
        return self.max_tokens == 0

    @property
    def drawn(self) -> int:
        """Answers that are made for each prompt; the best ``n`` of them are given."""
        return max(self.best_of or 0, self.n or 1)

    def asked(self) -> tuple[GenerateRequest, ...]:
        """What it means, one for each prompt.

        Raises:
            ApiError: it asks for what is not there, or contradicts itself.
        """
        self.check()
        tokens = DEFAULT_TOKENS if self.max_tokens is None else None if self.max_tokens < 0 else self.max_tokens
        scored = self.logprobs is not None
        begun = GenerateRequest(
            model=self.model,
            prompt="",
            max_tokens=tokens,
            stop=self.stops,
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_end=self.ignore_eos,
            grammar=self.prescribed(),
            answers=self.drawn,
            logprobs=bool(scored or self.return_token_ids or self.drawn > (self.n or 1)),
            top=max(self.logprobs or 0, self.prompt_logprobs or 0),
            prompt_logprobs=self.prompt_logprobs is not None or bool(self.echo and scored),
            adapter=self.lora,
        )
        if self.scoring:  # the engine makes one token at least, of which nobody is told
            begun = replace(begun, max_tokens=1, grammar=None, stop=(), logprobs=False)
        # Each prompt has a seed of its own when none is given: equal prompts are to have different answers.
        return tuple(
            replace(begun, prompt=prompt if isinstance(prompt, str) else tuple(prompt), sampling=self.sampling())
            for prompt in self.prompts
        )

    def check(self) -> None:
        """See ``SamplingFields.check``."""
        super().check()
        if not self.prompts or [] in self.prompts:
            raise ApiError("invalid", "the prompt is empty; give a text, or ids of tokens", param="prompt")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ApiError("invalid", "best_of is less than n; let it be n or more", param="best_of")
        if self.stream and self.drawn > (self.n or 1):
            raise ApiError("invalid", "the best answers are known at the end; leave stream out", param="best_of")
        if not self.suffix:
            return
        if self.echo:
            raise ApiError("invalid", "echo and suffix do not go together; leave one out", param="echo")
        if not all(isinstance(prompt, str) for prompt in self.prompts):
            raise ApiError("invalid", "a suffix wants prompts that are texts", param="suffix")

    @property
    def needs_model(self) -> bool:
        """Whether the prompts or the sampling can only be made with the model at hand."""
        return bool(self.suffix) or self.add_special_tokens is False or self.needs_vocabulary

    async def prepared(self, service: Service) -> tuple[GenerateRequest, ...]:
        """As ``asked``, with what only the model knows: the gap to be filled, words that are forbidden.

        Raises:
            ApiError: as ``asked``; no such model, or it was not taught to fill in.
        """
        requests = self.asked()
        if not self.needs_model:
            return requests
        known = service.shelf.resolve(self.model, self.lora)
        async with service.shelf.lend(known) as served:
            # A prompt may be long, and is encoded here.
            return await asyncio.to_thread(lambda: tuple(self._with(request, served) for request in requests))

    def _with(self, request: GenerateRequest, served: ServedModel) -> GenerateRequest:
        tokenizer = served.engine.tokenizer
        if self.suffix:
            request = self._filling(request, self.suffix, served)
        elif self.add_special_tokens is False and isinstance(request.prompt, str):
            request = replace(request, prompt=tuple(tokenizer.encode(request.prompt, special=True)))
        return with_vocabulary(request, self, tokenizer)

    def _filling(self, request: GenerateRequest, suffix: str, served: ServedModel) -> GenerateRequest:
        from cadran.serve.ide.fim_prompt import echo_of, fim_of

        fim = fim_of(served)
        if fim is None:
            raise ApiError(
                "invalid",
                f"the model {served.known.name} was not taught to fill in the middle; leave suffix out",
                param="suffix",
            )
        assert isinstance(request.prompt, str)
        return replace(
            request,
            prompt=fim.prompt(request.prompt, suffix),
            stop=(*request.stop, *echo_of(suffix)),
            stop_ids=tuple(dict.fromkeys((*request.stop_ids, *fim.stop_ids))),
        )
