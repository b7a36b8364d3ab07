"""``GET /v1/models`` and what belongs to it."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.errors import UserError
from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError
from cadran.serve.digest import digest_of
from cadran.serve.family import service_of
from cadran.serve.known_model import KnownModel
from cadran.serve.openai.model_body import Facts, model_body, model_list, read_facts
from cadran.serve.replicate.base_address import base_address
from cadran.serve.replicate.version import find_model, version_body
from cadran.serve.service import Service

router = APIRouter(tags=["OpenAI"])
PATIENCE = 2.0
"""Seconds that the list waits for digests; those of large models are told as soon as they are known."""


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> Response:
    """All models, their aliases too."""
    service = service_of(request)
    listed = service.shelf.known
    facts = await asyncio.gather(*(_facts(known, PATIENCE) for known in listed))
    bodies = [
        _body(request, service, id, known, of)
        for known, of in zip(listed, facts, strict=True)
        for id in (known.name, *known.aliases)
    ]
    return JSON(model_list(bodies))


@router.get("/v1/models/{id:path}")
@router.get("/models/{id:path}", include_in_schema=False)
async def model(request: Request, id: str) -> Response:
    """One model, by its name or an alias."""
    service = service_of(request)
    known = _named(service, id)
    return JSON(_body(request, service, id, known, await _facts(known, None)))


@router.delete("/v1/models/{id:path}")
@router.delete("/models/{id:path}", include_in_schema=False)
async def delete_model(request: Request, id: str) -> Response:
    """Refused: models are removed by whoever runs the server."""
    known = _named(service_of(request), id)
    raise ApiError("permission", f"{known.name} cannot be deleted from outside; remove its files on the server")


def _named(service: Service, id: str) -> KnownModel:
    if not id:
        raise ApiError("not_found", "name a model; /v1/models lists them", param="model", code="model_not_found")
    return find_model(service.shelf, id)


def _body(request: Request, service: Service, id: str, known: KnownModel, facts: Facts) -> dict[str, Any]:
    version = None if facts.digest is None else version_body(known, facts.digest)
    body = model_body(id, facts, base_address(request), version, service.settings.context)
    opened = any(served.known.name == known.name for served in service.shelf.served)
    return body | {"status": {"value": "loaded" if opened else "unloaded"}}  # as llama.cpp's router tells it


async def _facts(known: KnownModel, patience: float | None) -> Facts:
    """What is told of a model; the digest only if it is known within so many seconds."""
    facts = await asyncio.to_thread(read_facts, known)
    with suppress(UserError, OSError, TimeoutError):
        return replace(facts, digest=await asyncio.wait_for(digest_of(known), patience))
    return facts
