"""A place and an open model for work that is no generation: scoring, embeddings. Generations begin with ``Service``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service


@asynccontextmanager
async def lent(service: Service, model: str, adapter: str | None = None) -> AsyncIterator[ServedModel]:
    """Wait for a place like every request, and keep it and the model for as long as the context lasts.

    Use it as ``async with lent(service, body.model) as served:``, within ``until_gone``.

    Args:
        service: whose places and models.
        model: name, as the client wrote it.
        adapter: a LoRA adapter by name, over the model.

    Raises:
        ApiError: no such model, it cannot be opened, or too many wait already.
    """
    known = service.shelf.resolve(model, adapter)
    await service.admission.enter()
    try:
        async with service.shelf.lend(known) as served:
            yield served
    finally:
        service.admission.leave()
