"""``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM has them. Source: api-contracts 10.

Both act only where ``adapter_folder`` is set. An adapter is opened before it is said to be loaded, so that one of
another model is refused here and not at its first request.
"""

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.known_model import KnownModel
from cadran.serve.lent import lent
from cadran.serve.service import Service

router = APIRouter(tags=["Operations"])


class UnloadRequest(BaseModel):
    """The body that names an adapter: ``NAME`` or ``MODEL:NAME``."""

    model_config = ConfigDict(extra="allow")

    lora_name: str = Field(min_length=1)
    base_model: str | None = None


class LoadRequest(UnloadRequest):
    """The body that also says where it lies."""

    lora_path: str = Field(min_length=1)


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(request: Request, body: LoadRequest) -> Response:
    """Load an adapter from the folder that the server opens for it; the answer comes when it can be used."""
    known = await until_gone(request, _load(service_of(request), body))
    return JSON({"success": True, "model": known.name, "id": known.number})


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(request: Request, body: UnloadRequest) -> Response:
    """Unload an adapter that was loaded; requests under way with it are finished first."""
    service = service_of(request)
    service.adapters.refuse_unless_open()
    shelf = service.shelf
    known = shelf.adapter(body.base_model or "", body.lora_name)
    if known is None:
        there = ", ".join(model.name for model in shelf.known if model.adapter is not None) or "none"
        raise ApiError(
            "not_found", f"there is no adapter {body.lora_name[:200]!r} here; those there are: {there}",
            param="lora_name",
        )  # fmt: skip
    service.adapters.unload(known)
    await shelf.drop(known)
    return JSON({"success": True, "model": known.name})


async def _load(service: Service, body: LoadRequest) -> KnownModel:
    adapters, shelf = service.adapters, service.shelf
    adapters.refuse_unless_open()
    base, name = _place(service, body)
    folder = await asyncio.to_thread(adapters.find, body.lora_path)
    # From here to the shelf nothing waits: of two that take one name, the second is refused.
    if shelf.names(f"{base.name}:{name}"):
        raise ApiError(
            "invalid", f"the name {base.name}:{name} is taken; unload that adapter first, or take another name",
            param="lora_name",
        )  # fmt: skip
    known = adapters.load(base, name, folder)
    shelf.add(known)
    try:
        async with lent(service, known.name):
            return known
    except BaseException:  # whatever it was, nobody was told that it is loaded
        adapters.unload(known)
        await shelf.drop(known)
        raise


def _place(service: Service, body: LoadRequest) -> tuple[KnownModel, str]:
    """The model and the adapter's name over it."""
    over, _, name = body.lora_name.rpartition(":")
    bases = [service.shelf.resolve(given) for given in (body.base_model, over) if given]
    base = bases[0] if bases else service.shelf.resolve("")
    if any(other.name != base.name for other in bases):
        raise ApiError("invalid", "lora_name and base_model name two models; leave one out", param="base_model")
    if base.adapter is not None:
        raise ApiError("invalid", f"{base.name} is an adapter itself; name the model beneath it", param="base_model")
    return base, name
