"""``POST /v1/responses`` and its companions. Source: api-contracts 3."""

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, to_json, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute, aside
from cadran.serve.openai.logprobs import chat_logprobs
from cadran.serve.openai.responses_answer import ResponseHead
from cadran.serve.openai.responses_desk import LiveResponse, desk_of, key_of, new_response_id
from cadran.serve.openai.responses_items import Item, read_items
from cadran.serve.openai.responses_request import ResponsesRequest
from cadran.serve.openai.responses_stream import ResponseStream, replay
from cadran.serve.openai.responses_truncation import fitted

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

STORED_CHARACTERS = 16 << 20
"""Most characters of the items and tools of a request whose response is stored."""
CANCEL_SECONDS = 10.0


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a conversation, and keep the answer."""
    desk, service, key = desk_of(request), service_of(request), key_of(request)
    id, created = new_response_id(), int(time.time())
    items, asked = await _asked(request, body, id)
    keep = desk.keeps and body.store is not False
    told = body.told(body.model, keep)
    if keep and await aside(request, lambda: len(to_json(items)) + len(to_json(told))) > STORED_CHARACTERS:
        raise ApiError("too_large", "the request is too large to be stored; send store false", param="store")
    exchange = await until_gone(request, service.begin(asked))
    try:
        head = _head(id, created, told, exchange, body)
        live = LiveResponse(desk, head, exchange, key=key, items=items, keep=keep)
    except BaseException:
        exchange.close()
        raise
    if body.stream:
        if keep:
            desk.live[id] = live
        return ResponseStream(live)
    async with exchange:
        await until_gone(request, live.read())
        await live.conclude()
    if live.events.status == "failed":
        raise ApiError("internal", "the response could not be stored; see the server's log")
    return JSON(live.events.snapshot())


async def _asked(request: Request, body: ResponsesRequest, id: str) -> tuple[list[Item], GenerateRequest]:
    """The request's own items, and what all of the conversation asks for."""
    desk, key = desk_of(request), key_of(request)
    numbers = iter(range(0x8000, 1 << 32))  # far behind those of the output's items
    new_id = lambda prefix: f"{prefix}_{id.removeprefix('resp_')}{next(numbers):04x}"  # noqa: E731
    items = await aside(request, lambda: read_items(body.input, new_id))
    conversation = await desk.conversation(body.previous_response_id, items, key)
    asked = await aside(request, lambda: body.asked(conversation))
    if body.truncation == "auto":
        asked = await until_gone(request, fitted(service_of(request), asked))
    return items, asked


def _head(id: str, created: int, told: dict[str, object], exchange: Exchange, body: ResponsesRequest) -> ResponseHead:
    logprobs = None
    if body.wants_logprobs:
        logprobs = partial(chat_logprobs, exchange.served.engine.tokenizer, top=body.top_logprobs or 0)
    model = exchange.model or exchange.served.known.name
    return ResponseHead(id, created, told | {"model": model}, time.time, body.wants_summary, logprobs)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request, body: ResponsesRequest) -> Response:
    """Count the tokens of a request."""
    _, asked = await _asked(request, body, new_response_id())
    ids = await until_gone(request, service_of(request).prompt_ids(asked))
    return JSON({"object": "response.input_tokens", "input_tokens": len(ids)})


@router.get("/v1/responses/{id}")
async def retrieve_response(
    request: Request, id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """A response, or the events of its stream again."""
    desk, key = desk_of(request), key_of(request)
    if stream:
        return replay(await until_gone(request, desk.events(id, key)), starting_after)
    return JSON(await desk.body(id, key))


@router.delete("/v1/responses/{id}")
async def delete_response(request: Request, id: str) -> Response:
    """Forget a response."""
    await desk_of(request).forget(id, key_of(request))
    return JSON({"id": id, "object": "response", "deleted": True})


@router.post("/v1/responses/{id}/cancel")
async def cancel_response(request: Request, id: str) -> Response:
    """End a response that is being made; one that is over stays as it is."""
    desk, key = desk_of(request), key_of(request)
    if (live := desk.find(id, key)) is not None:
        live.exchange.close()
        with suppress(TimeoutError):  # its client reads slowly
            await asyncio.wait_for(live.done.wait(), CANCEL_SECONDS)
    return JSON(await desk.body(id, key))


@router.get("/v1/responses/{id}/input_items")
async def list_input_items(
    request: Request,
    id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """The items that a response was asked with; those of the responses before it are theirs."""
    items = list(await desk_of(request).input(id, key_of(request)))
    if order == "desc":
        items.reverse()
    places = [number for number, item in enumerate(items) if item["id"] == after]
    items = items[places[0] + 1 :] if places else items
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return JSON(
        {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": len(items) > len(page)}
    )
