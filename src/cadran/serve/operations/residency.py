"""``POST /models/load`` and ``/models/unload``, in the words of llama.cpp's router. Source: api-contracts 10.

Models are opened on demand in any case; this opens one before it is asked, or gives its memory back before its time.
"""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.family import service_of
from cadran.serve.lent import lent
from cadran.serve.service import Service

router = APIRouter(tags=["Operations"])


class ModelRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1)


@router.post("/models/load")
@router.post("/v1/models/load", include_in_schema=False)
async def load(request: Request, body: ModelRequest) -> Response:
    """Open a model; the answer comes when it is open."""
    await until_gone(request, _open(service_of(request), body.model))
    return JSON({"success": True})


@router.post("/models/unload")
@router.post("/v1/models/unload", include_in_schema=False)
async def unload(request: Request, body: ModelRequest) -> Response:
    """Close a model; one that is in use is closed after its last request."""
    shelf = service_of(request).shelf
    known = shelf.resolve(body.model)
    for served in shelf.served:
        if served.known.name == known.name:
            shelf.keep(served, 0)
            if not served.users:
                await shelf.close(served)
    return JSON({"success": True})


async def _open(service: Service, model: str) -> None:
    async with lent(service, model) as loan:
        service.shelf.keep(loan.served, service.shelf.keep_alive)  # whatever an unload before it has said
