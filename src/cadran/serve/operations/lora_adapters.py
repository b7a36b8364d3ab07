"""``GET /lora-adapters``: the adapters that a request may choose from, as llama.cpp numbers them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON
from cadran.serve.family import service_of

router = APIRouter(tags=["Operations"])


@router.get("/lora-adapters")
async def lora_adapters(request: Request) -> Response:
    """The adapters; none acts unless a request names it, in ``lora`` or as the model ``MODEL:NAME``."""
    return JSON(
        [
            {"id": known.number, "path": known.adapter_name, "scale": 0.0, "model": known.name}
            for known in service_of(request).shelf.known
            if known.number is not None
        ]
    )
