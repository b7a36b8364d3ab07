"""``POST /infill`` and ``POST /completion``, as llama.cpp's server has them."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.errors import UserError
from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import collect
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.ide.answer_limits import limited
from cadran.serve.ide.gap import fim_prompt
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.native_answer import NativeHead, NativeStream, native_body
from cadran.serve.ide.native_request import CompletionRequest, InfillRequest, NativeFields, prompt_ids
from cadran.serve.service import Service

router = APIRouter(tags=["llama.cpp"], route_class=JsonRoute)


@router.post("/infill")
async def infill(request: Request, body: InfillRequest | list[InfillRequest]) -> Response:
    """Fill in the middle of a text; with ``n_predict`` 0 only read what surrounds it, so that the next call is fast."""
    service = service_of(request)
    if isinstance(body, list):
        if any(one.stream for one in body):
            raise ApiError("invalid", "several requests in one are not streamed; leave stream out", param="stream")
        return await _several(request, service, [_filled(service, one, n) for n, one in enumerate(body)])
    if not body.stream:
        return JSON(await until_gone(request, _filled(service, body)))
    asked, truncated = await until_gone(request, _infill_asked(service, body))
    return await _stream(request, service, body, asked, truncated)


@router.post("/completion")
async def completion(request: Request, body: CompletionRequest) -> Response:
    """Continue a text or ids, or each of a list of them."""
    service = service_of(request)
    prompts, several = body.prompts()
    if several:
        if body.stream:
            raise ApiError("invalid", "several prompts are not streamed; send one, or leave stream out", param="stream")
        return await _several(request, service, [_continued(service, body, one, n) for n, one in enumerate(prompts)])
    if not body.stream:
        return JSON(await until_gone(request, _continued(service, body, prompts[0])))
    asked = await until_gone(request, _completion_asked(service, body, prompts[0]))
    return await _stream(request, service, body, asked, False)


async def _infill_asked(service: Service, body: InfillRequest) -> tuple[GenerateRequest, bool]:
    adapter = body.adapter(service.shelf.adapters)
    prompt = await fim_prompt(service, body.model, body.gap(), answer=body.predicted, adapter=adapter)
    return body.filled(prompt, adapter), prompt.truncated


async def _completion_asked(service: Service, body: CompletionRequest, prompt: Any) -> GenerateRequest:
    adapter = body.adapter(service.shelf.adapters)
    async with service.shelf.lend(service.shelf.resolve(body.model, adapter)) as served:
        try:
            ids = await asyncio.to_thread(prompt_ids, served.engine, prompt)
        except UserError as error:
            raise ApiError("invalid", str(error), param="prompt") from error
    return body.asked(ids, adapter=adapter)


async def _filled(service: Service, body: InfillRequest, index: int = 0) -> dict[str, Any]:
    asked, truncated = await _infill_asked(service, body)
    return await _whole(service, body, asked, truncated, index)


async def _continued(service: Service, body: CompletionRequest, prompt: Any, index: int = 0) -> dict[str, Any]:
    return await _whole(service, body, await _completion_asked(service, body, prompt), False, index)


async def _whole(
    service: Service, body: NativeFields, asked: GenerateRequest, truncated: bool, index: int
) -> dict[str, Any]:
    limits = body.limits()
    async with await service.begin(asked) as exchange:
        collected = await collect(aiter(exchange) if limits is None else limited(exchange, limits))
        return native_body(_head(exchange, body, truncated), collected, index)


async def _stream(
    request: Request, service: Service, body: NativeFields, asked: GenerateRequest, truncated: bool
) -> Response:
    exchange = await until_gone(request, service.begin(asked))
    return StreamAnswer(exchange, NativeStream(_head(exchange, body, truncated), body.limits()))


async def _several(request: Request, service: Service, work: Sequence[Coroutine[Any, Any, dict[str, Any]]]) -> Response:
    """All or nothing: the first failure ends the others."""
    most = service.settings.max_answers
    if len(work) > most:
        for one in work:
            one.close()
        raise ApiError("invalid", f"{len(work)} answers were asked for; ask for {most} at most")

    async def together() -> list[dict[str, Any]]:
        tasks = [asyncio.create_task(one) for one in work]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    return JSON(await until_gone(request, together()))


def _head(exchange: Exchange, body: NativeFields, truncated: bool) -> NativeHead:
    return NativeHead(
        model=exchange.model or exchange.served.known.name,
        tokenizer=exchange.served.engine.tokenizer,
        probabilities=body.n_probs > 0,
        silent=body.predicted == 0,
        truncated=truncated,
        fields=body.response_fields,
    )
