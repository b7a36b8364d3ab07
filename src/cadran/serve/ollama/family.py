"""The Ollama family: its routes and its way to say no."""

import re

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from cadran.serve.family import Family
from cadran.serve.ollama import chat, embed, generate, library, models, pull
from cadran.serve.ollama.errors import refuse
from cadran.serve.ollama.root import RUNNING, ollama_root

router = APIRouter()
for _part in (models, chat, generate, embed, pull, library):
    router.include_router(_part.router)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root(request: Request) -> Response:
    """Say that something is here."""
    return ollama_root(request) or PlainTextResponse(RUNNING)


FAMILY = Family("ollama", re.compile(r"/api/|/v1/systemone$"), router, refuse)
