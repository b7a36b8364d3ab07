"""Ollama's library over the network: what cannot be had is refused in one sentence. Source: api-contracts 7.

A server's models are named by whoever starts it; no client may take one away from the others or put one in its place.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.open_body import OpenBody

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)


class NameRequest(OpenBody):
    """A body that names a model."""

    model: str | None = None
    name: str | None = None


class CopyRequest(OpenBody):
    """The body of ``POST /api/copy``."""

    source: str = ""
    destination: str = ""


@router.post("/api/create")
async def create(body: NameRequest) -> Response:
    """Refused: models are made by ``cadran run``, ``cadran quantize`` and ``cadran export``."""
    raise ApiError(
        "unsupported", "models are not made over the network; send system and options with each request instead"
    )


@router.post("/api/copy")
async def copy(request: Request, body: CopyRequest) -> Response:
    """Refused: a further name is given when the server is started."""
    known = service_of(request).shelf.resolve(body.source)
    raise ApiError(
        "permission", f"no name is given over the network; start the server with --alias NAME={known.name} instead"
    )


@router.delete("/api/delete")
async def delete(request: Request, body: NameRequest) -> Response:
    """Refused: others may be using it."""
    known = service_of(request).shelf.resolve(body.model or body.name or "")
    raise ApiError(
        "permission", f"no model is removed over the network; type cadran models rm {known.name} on the server instead"
    )


@router.head("/api/blobs/{digest}")
async def has_blob(digest: str) -> Response:
    """There are no blobs."""
    return Response(status_code=404)


@router.post("/api/blobs/{digest}")
async def put_blob(digest: str) -> Response:
    """Refused: there is nothing that blobs could be made into."""
    return JSON({"error": "models are not made over the network; type cadran pull on the server"}, status_code=501)


@router.post("/api/push")
async def push(body: NameRequest) -> Response:
    """Refused: nothing is published from here."""
    return JSON({"error": "models are not published from here; type cadran export on the server"}, status_code=501)
