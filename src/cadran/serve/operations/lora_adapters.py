"""``GET /lora-adapters``: the adapters that a request may choose from, as llama.cpp numbers them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON
from cadran.serve.family import service_of

router = APIRouter(tags=["Operations"])


@router.get("/lora-adapters")
async def lora_adapters(request: Request) -> Response:
    """The adapters; none acts unless a request names it, in ``lora`` or as the model ``MODEL:NAME``."""
    names = service_of(request).settings.adapters
    return JSON([{"id": number, "path": name, "scale": 0.0} for number, name in enumerate(names)])
