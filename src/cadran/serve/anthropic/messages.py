"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

import secrets

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.anthropic.message_body import message_body
from cadran.serve.anthropic.message_stream import MessageHead, MessageStream
from cadran.serve.anthropic.messages_request import MessagesRequest
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute, aside

router = APIRouter(tags=["Anthropic"], route_class=BodyRoute)

_FIRST_VERSION = "2023-06-01"
_CONTEXT_BETA = "model-context-window-exceeded"


@router.post("/v1/messages")
async def messages(request: Request, body: MessagesRequest) -> Response:
    """Answer a conversation."""
    asked = await aside(request, body.asked)
    exchange = await until_gone(request, service_of(request).begin(asked))
    headers = {"request-id": _request_id(request)}
    stream = MessageStream(
        MessageHead(
            id=f"msg_{secrets.token_hex(12)}",
            model=exchange.model or exchange.served.known.name,
            request_id=headers["request-id"],
            shown=body.shown,
            tells_context=_tells_context(request),
            warms=body.warms,
        )
    )
    if body.stream:
        return StreamAnswer(exchange, stream, headers)
    async with exchange:
        return JSON(await until_gone(request, message_body(aiter(exchange), stream)), headers=headers)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: MessagesRequest) -> Response:
    """Count the tokens that a conversation is read as."""
    asked = await aside(request, body.asked)
    ids = await until_gone(request, service_of(request).prompt_ids(asked))
    return JSON({"input_tokens": len(ids)}, headers={"request-id": _request_id(request)})


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def _tells_context(request: Request) -> bool:
    """Whether the client knows ``model_context_window_exceeded``: the first version of the API does not."""
    if _CONTEXT_BETA in ",".join(request.headers.getlist("anthropic-beta")):
        return True
    return request.headers.get("anthropic-version", _FIRST_VERSION) > _FIRST_VERSION
