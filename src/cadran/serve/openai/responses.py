"""``POST /v1/responses`` and its companions. Source: api-contracts 3."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cadran.engine.request import Scored
from cadran.serve.answering import JSON, to_json, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute, aside
from cadran.serve.openai.logprobs import chat_logprobs
from cadran.serve.openai.responses_answer import ResponseHead
from cadran.serve.openai.responses_desk import desk_of, key_of, new_response_id
from cadran.serve.openai.responses_items import Item, read_items
from cadran.serve.openai.responses_live import LiveResponse
from cadran.serve.openai.responses_request import ResponsesRequest
from cadran.serve.openai.responses_stream import ResponseStream, follow, replay
from cadran.serve.openai.responses_truncation import fitted
from cadran.serve.service import Service

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

STORED_CHARACTERS = 16 << 20
"""Most characters of the items and tools of a request whose response is stored."""


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a conversation, and keep the answer."""
    desk, service, key = desk_of(request), service_of(request), key_of(request)
    id, created = new_response_id(), int(time.time())
    items, asked = await _asked(request, body, id)
    keep = desk.keeps and body.store is not False
    if body.background and not keep:
        problem = "this server stores no responses, so none can be made in the background; leave background out"
        raise ApiError("invalid", problem, param="background")
    told = body.told(body.model, keep)
    size = await aside(request, lambda: len(to_json(items)) + len(to_json(told))) if keep else 0
    if size > STORED_CHARACTERS:
        raise ApiError("too_large", "the request is too large to be stored; send store false", param="store")

    async def begin() -> Exchange:
        return await service.begin(await _fitted(service, body, asked))

    if body.background:
        told["model"] = body.model or service.shelf.resolve(asked.model, asked.adapter).name

        async def begin_live() -> Exchange:
            live.exchange = await begin()
            return live.exchange

        head = _head(id, created, told, body, lambda: live.exchange)
        live = LiveResponse(desk, head, key=key, items=items, keep=True, background=True, size=size)
        first = await until_gone(request, desk.background.start(live, begin_live))
        return follow(live, None) if body.stream else JSON(first)
    exchange = await until_gone(request, begin())
    try:
        told["model"] = exchange.model or exchange.served.known.name
        head = _head(id, created, told, body, lambda: exchange)
        live = LiveResponse(desk, head, key=key, items=items, keep=keep, exchange=exchange)
    except BaseException:
        exchange.close()
        raise
    if body.stream:
        if keep:
            desk.live[id] = live
        return ResponseStream(live, exchange)
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
    return items, await aside(request, lambda: body.asked(conversation))


async def _fitted(service: Service, body: ResponsesRequest, asked: GenerateRequest) -> GenerateRequest:
    return await fitted(service, asked) if body.truncation == "auto" else asked


def _head(
    id: str, created: int, told: dict[str, Any], body: ResponsesRequest, exchange: Callable[[], Exchange | None]
) -> ResponseHead:
    def entries(tokens: Sequence[Scored]) -> list[dict[str, Any]]:
        computing = exchange()
        assert computing is not None, "there are no tokens before"
        return chat_logprobs(computing.served.engine.tokenizer, tokens, body.top_logprobs or 0)

    return ResponseHead(id, created, told, time.time, body.wants_summary, entries if body.wants_logprobs else None)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request, body: ResponsesRequest) -> Response:
    """Count the tokens of a request."""
    _, asked = await _asked(request, body, new_response_id())
    service = service_of(request)

    async def counted() -> int:
        return len(await service.prompt_ids(await _fitted(service, body, asked)))

    tokens = await until_gone(request, counted())
    return JSON({"object": "response.input_tokens", "input_tokens": tokens})


@router.get("/v1/responses/{id}")
async def retrieve_response(
    request: Request, id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """A response, or the events of its stream from a place on, as they come."""
    desk, key = desk_of(request), key_of(request)
    if not stream:
        return JSON(await desk.body(id, key))
    if (live := desk.find(id, key)) is not None:
        return follow(live, starting_after)
    return replay(await until_gone(request, desk.events(id, key)), starting_after)


@router.delete("/v1/responses/{id}")
async def delete_response(request: Request, id: str) -> Response:
    """Forget a response; one under way is cancelled."""
    await desk_of(request).forget(id, key_of(request))
    return JSON({"id": id, "object": "response", "deleted": True})


@router.post("/v1/responses/{id}/cancel")
async def cancel_response(request: Request, id: str) -> Response:
    """End a response that is made in the background; one that is over stays as it is."""
    return JSON(await desk_of(request).cancel(id, key_of(request)))


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
