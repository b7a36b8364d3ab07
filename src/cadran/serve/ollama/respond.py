"""From a request that is understood to its response; chat and generate have this in common."""

from typing import Any

from fastapi import Request
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import collect
from cadran.serve.ollama.answer import Head, LineStream, idle_body, whole_body
from cadran.serve.ollama.base_request import OllamaRequest
from cadran.serve.ollama.clock import now
from cadran.serve.ollama.keep_alive import keep, seconds_of
from cadran.serve.service import Service


async def respond(
    request: Request,
    service: Service,
    body: OllamaRequest,
    asked: GenerateRequest,
    *,
    chat: bool,
    remembers: bool = False,
) -> Response:
    """Answer, whole or streamed.

    Args:
        request: of the client.
        service: that answers.
        body: whose ``stream`` and ``keep_alive`` count.
        asked: what it means.
        chat: whether the answer is a message.
        remembers: whether the client is given ids from which its next request may go on.

    Raises:
        ApiError: it is refused.
    """
    if body.keep_alive is not None:
        seconds_of(body.keep_alive)  # what is wrong with it is said before anything is computed
    exchange = await until_gone(request, service.begin(asked))
    engine = exchange.served.engine
    ends = engine.renderer.stop_ids if engine.renderer is not None else engine.tokenizer.eos_ids
    head = Head(
        model=exchange.model or exchange.served.known.name,
        chat=chat,
        now=now,
        tokenizer=engine.tokenizer,
        top=body.top if body.logprobs else None,
        prompt=exchange.prompts[0] if remembers else None,
        end=next(iter(ends), None),
    )
    await keep(service, exchange.served, body.keep_alive)
    if body.stream:
        return StreamAnswer(exchange, LineStream(head))
    async with exchange:
        return JSON(whole_body(head, await until_gone(request, collect(aiter(exchange)))))


async def open_or_close(service: Service, body: OllamaRequest, *, chat: bool) -> dict[str, Any]:
    """Open a model, or let go of it with ``keep_alive`` 0, and tell so.

    Raises:
        ApiError: there is no such model, or it cannot be opened.
    """
    known = service.shelf.resolve(body.model)
    closing = body.keep_alive is not None and seconds_of(body.keep_alive) == 0
    if closing:
        for served in service.shelf.served:
            if served.known.name == known.name:
                await keep(service, served, body.keep_alive)
                break
    else:
        async with service.shelf.lend(known) as served:
            await keep(service, served, body.keep_alive)
    return idle_body(body.model or known.name, chat, now(), "unload" if closing else "load")
