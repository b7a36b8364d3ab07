"""``POST /api/chat``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.family import service_of
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.large_body import aside
from cadran.serve.ollama.chat_request import ChatRequest
from cadran.serve.ollama.respond import open_or_close, respond
from cadran.serve.ollama.truncation import truncated

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)


@router.post("/api/chat")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation; without messages only open the model, or close it with ``keep_alive`` 0."""
    service = service_of(request)
    if not body.messages:
        return JSON(await until_gone(request, open_or_close(service, body, chat=True)))
    asked = await aside(request, body.asked)
    if body.truncate:
        asked = await until_gone(request, truncated(service, asked))
    return await respond(request, service, body, asked, chat=True)
