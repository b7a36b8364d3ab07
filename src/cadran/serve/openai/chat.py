"""``POST /v1/chat/completions``."""

import asyncio
import secrets
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import collect
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute, aside
from cadran.serve.openai.chat_answer import ChatHead, ChatStream, chat_body
from cadran.serve.openai.chat_request import ChatRequest
from cadran.serve.openai.fingerprint import fingerprint
from cadran.serve.openai.vocabulary_fields import understood
from cadran.serve.service import Service

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    asked = await aside(request, body.asked)
    exchange = await until_gone(request, _begun(service, body, asked))
    head = _head(service, exchange, body)
    if body.stream:
        return StreamAnswer(exchange, ChatStream(head, body.n or 1, body.wants_usage))
    async with exchange:
        collected = await until_gone(request, collect(aiter(exchange)))
        if head.top is None:
            return JSON(chat_body(head, collected))
        return await asyncio.to_thread(lambda: JSON(chat_body(head, collected)))  # megabytes, where much was asked for


async def _begun(service: Service, body: ChatRequest, asked: GenerateRequest) -> Exchange:
    return await service.begin(await understood(service, body, asked))


def _head(service: Service, exchange: Exchange, body: ChatRequest) -> ChatHead:
    return ChatHead(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=exchange.model or exchange.served.known.name,
        fingerprint=fingerprint(exchange.served, service.settings),
        top=(body.top_logprobs or 0) if body.logprobs else None,
        tokenizer=exchange.served.engine.tokenizer,
        legacy=body.legacy,
        prompt_ids=exchange.prompts[0] if body.return_token_ids else None,
        prompt_top=body.prompt_logprobs,
    )
