"""``POST /api/generate``: continue a prompt, fill a gap, or go on from the ids of an earlier answer.

Source: api-contracts 7.
"""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.family import service_of
from cadran.serve.ide.gap import Gap, fim_prompt
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ollama.base_request import OllamaRequest
from cadran.serve.ollama.respond import open_or_close, respond
from cadran.serve.ollama.truncation import truncated
from cadran.serve.service import Service

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

Ids = tuple[int, ...]


class OllamaGenerateRequest(OllamaRequest):
    """The body."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] | None = None
    raw: bool = False
    images: list[Any] | None = None

    def check(self) -> None:
        """See that its fields go together.

        Raises:
            ApiError: they do not, or something is asked for that is not to be had.
        """
        if self.images:
            raise ApiError("invalid", "images cannot be read by a model of text; send text", param="images")
        if self.template:
            raise ApiError(
                "invalid", "the model's own template is used; leave template out, or send raw text", param="template"
            )
        if self.raw and (self.system or self.context or self.suffix):
            raise ApiError("invalid", "raw text goes without system, context and suffix; leave them out", param="raw")
        if self.suffix and (self.system or self.context):
            raise ApiError("invalid", "a suffix goes without system and context; leave them out", param="suffix")

    def base(self) -> GenerateRequest:
        """What it means, but for the prompt."""
        thinking, variables = self.thinking()
        return GenerateRequest(
            model=self.model,
            sampling=self.options.sampling(),
            max_tokens=self.options.max_tokens,
            stop=self.options.stops,
            grammar=self.grammar(),
            logprobs=self.logprobs,
            top=self.top,
            thinking=thinking,
            template_variables=variables,
            context=self.options.context,
        )


@router.post("/api/generate")
async def generate(request: Request, body: OllamaGenerateRequest) -> Response:
    """Continue a prompt; without one only open the model, or close it with ``keep_alive`` 0."""
    service = service_of(request)
    body.check()
    if not body.prompt and not body.suffix:
        return JSON(await until_gone(request, open_or_close(service, body, chat=False)))
    asked = await until_gone(request, _asked(service, body))
    return await respond(request, service, body, asked, chat=False, remembers=not (body.raw or body.suffix))


async def _asked(service: Service, body: OllamaGenerateRequest) -> GenerateRequest:
    base = body.base()
    if body.suffix:
        gap = Gap(body.prompt, body.suffix)
        filled = await fim_prompt(service, body.model, gap, answer=base.max_tokens, context=base.context)
        stop = (*base.stop, *filled.stop)
        return replace(base, prompt=filled.ids, stop=stop, stop_ids=filled.stop_ids)
    async with service.shelf.lend(service.shelf.resolve(body.model)) as served:
        renderer, opening = served.engine.renderer, tuple(served.engine.opening_ids)
    if body.raw or renderer is None:
        text = body.prompt if body.raw or not body.system else f"{body.system}\n\n{body.prompt}"
        asked = replace(base, prompt=text)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        asked = replace(base, messages=(*system, {"role": "user", "content": body.prompt}))
    if body.context:
        ids = await service.prompt_ids(asked)
        asked = replace(asked, messages=None, prompt=(*body.context, *_without(opening, ids)))
        if renderer is not None:
            asked = replace(asked, stop_ids=tuple(renderer.stop_ids))
    return await truncated(service, asked) if body.truncate else asked


def _without(opening: Ids, ids: Ids) -> Ids:
    return ids[len(opening) :] if opening and ids[: len(opening)] == opening else ids
