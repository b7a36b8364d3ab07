"""Which models there are and which are open: ``/api/tags``, ``/api/show``, ``/api/ps`` and ``/api/version``."""

import asyncio
import time
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.errors import UserError
from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.known_model import KnownModel
from cadran.serve.ollama.card import abilities, details, entry, model_info
from cadran.serve.ollama.clock import NEVER, stamp
from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

VERSION = "0.12.0"
"""Of Ollama's interface, which is what clients ask for: three whole numbers, and recent enough for all of them."""


class ShowRequest(OpenBody):
    """The body of ``POST /api/show``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


@router.get("/api/version")
@router.head("/api/version", include_in_schema=False)
async def version() -> Response:
    """The version of Ollama whose interface this is."""
    return JSON({"version": VERSION})


@router.get("/api/tags")
@router.head("/api/tags", include_in_schema=False)
async def tags(request: Request) -> Response:
    """The models that may be asked; aliases are models of their own."""
    shelf = service_of(request).shelf

    def work(models: list[KnownModel]) -> list[dict[str, Any]]:
        told = []
        for known in models:
            try:
                told += [entry(known, name) for name in (known.name, *known.aliases)]
            except (UserError, OSError):  # damaged: it cannot be asked
                continue
        return told

    return JSON({"models": await until_gone(request, asyncio.to_thread(work, shelf.known))})


@router.post("/api/show")
async def show(request: Request, body: ShowRequest) -> Response:
    """What is known of a model."""
    service, name = service_of(request), body.model or body.name or ""
    if not name:
        raise ApiError("invalid", "no model is named; give its name as model", param="model")
    known = service.shelf.resolve(name)
    served = next((one for one in service.shelf.served if one.known.name == known.name), None)
    return JSON(await until_gone(request, asyncio.to_thread(_shown, service, known, served, name)))


def _shown(service: Service, known: KnownModel, served: ServedModel | None, name: str) -> dict[str, Any]:
    try:
        header, able, modified = known.header, abilities(known, served), stamp(known.created)
    except (UserError, OSError) as error:
        raise ApiError("unsupported", f"the model {known.name} cannot be opened: {error}", param="model") from error
    context = served.engine.context if served is not None else header.context
    lines = [] if context is None else [("num_ctx", str(min(context, service.settings.context or context)))]
    lines += [("stop", f'"{stop}"') for stop in able.stops]
    parameters = "\n".join(f"{field:<30} {value}" for field, value in lines)
    return {
        "modelfile": f'FROM {known.name}\nTEMPLATE """{able.template}"""\n',
        "parameters": parameters,
        "template": able.template,
        "license": header.licence or "",
        "details": details(header),
        "model_info": model_info(header, name),
        "capabilities": list(able.capabilities),
        "modified_at": modified,
    }


@router.get("/api/ps")
async def ps(request: Request) -> Response:
    """The models that are open, and until when."""
    shelf = service_of(request).shelf
    open = [(served, _expires(served)) for served in shelf.served]

    def work() -> list[dict[str, Any]]:
        told = []
        for served, expires in open:
            try:
                card = entry(served.known, served.known.name)
            except (UserError, OSError):  # its files are gone while it is open
                continue
            del card["modified_at"]
            context = served.engine.context
            told.append(card | {"expires_at": expires, "size_vram": 0, "context_length": context})
        return told

    return JSON({"models": await until_gone(request, asyncio.to_thread(work))})


def _expires(served: ServedModel) -> str:
    if served.keep_alive is None:
        return NEVER
    left = served.keep_alive if served.users else served.last_used + served.keep_alive - monotonic()
    return stamp(time.time() + max(left, 0.0))
