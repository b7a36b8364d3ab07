"""``POST /v1/chat/completions``."""

import secrets
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.collected import collect
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.openai.chat_answer import ChatHead, ChatStream, chat_body
from cadran.serve.openai.chat_request import ChatRequest

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    exchange = await until_gone(request, service_of(request).begin(body.asked()))
    head = _head(exchange, body)
    if body.stream:
        return StreamAnswer(exchange, ChatStream(head, body.n or 1, body.wants_usage))
    async with exchange:
        return JSON(chat_body(head, await until_gone(request, collect(aiter(exchange)))))


def _head(exchange: Exchange, body: ChatRequest) -> ChatHead:
    return ChatHead(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=exchange.model or exchange.served.known.name,
        fingerprint=None,
        top=(body.top_logprobs or 0) if body.logprobs else None,
        tokenizer=exchange.served.engine.tokenizer,
    )
