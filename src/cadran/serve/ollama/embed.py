"""``POST /api/embed`` and the older ``POST /api/embeddings``. Source: api-contracts 7."""

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.lent import lent
from cadran.serve.ollama.keep_alive import KeepAlive, keep, seconds_of
from cadran.serve.ollama.options import Options
from cadran.serve.service import Service

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

TOGETHER = 8
"""Texts in one step of the engine; between steps other requests have their turn, and a client may leave."""


class EmbedRequest(OpenBody):
    """The body of ``POST /api/embed``."""

    model: str = ""
    input: str | list[str] = Field(default_factory=list)
    truncate: bool | None = None
    dimensions: int | None = Field(default=None, ge=1)
    options: Options | None = None
    keep_alive: KeepAlive | None = None

    @property
    def texts(self) -> list[str]:
        """What is embedded; an empty input only opens the model."""
        return ([self.input] if self.input else []) if isinstance(self.input, str) else self.input


class EmbeddingsRequest(OpenBody):
    """The body of ``POST /api/embeddings``."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive | None = None


@router.post("/api/embed")
async def embed(request: Request, body: EmbedRequest) -> Response:
    """Texts as vectors of length one."""
    return await asyncio.to_thread(JSON, await until_gone(request, _embedded(service_of(request), body)))


@router.post("/api/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """One text as a vector."""
    asked = EmbedRequest(model=body.model, input=body.prompt, keep_alive=body.keep_alive)
    told = await until_gone(request, _embedded(service_of(request), asked))
    return JSON({"embedding": next(iter(told["embeddings"]), [])})


async def _embedded(service: Service, body: EmbedRequest) -> dict[str, Any]:
    if body.keep_alive is not None:
        seconds_of(body.keep_alive)
    begun, texts = perf_counter(), body.texts
    vectors: list[list[float]] = []
    async with lent(service, body.model) as loan:
        served = loan.served
        loaded, engine, name = perf_counter() - begun, served.engine, served.known.name
        await keep(service, served, body.keep_alive)
        try:
            for start in range(0, len(texts), TOGETHER):
                some = texts[start : start + TOGETHER]
                told, read = await asyncio.to_thread(_some, engine, some, body.truncate is True, body.dimensions)
                vectors += told
                loan.read(read)
        except UserError as error:
            raise ApiError.of(error, "input") from error
    return {
        "model": body.model or name,
        "embeddings": vectors,
        "total_duration": round((perf_counter() - begun) * 1e9),
        "load_duration": round(loaded * 1e9),
        "prompt_eval_count": loan.prompt_tokens,
    }


def _some(engine: Engine, texts: list[str], truncate: bool, dimensions: int | None) -> tuple[list[list[float]], int]:
    """Vectors of a few texts, and the tokens that were read for them."""
    room, opening = engine.context, len(engine.opening_ids)
    if truncate:
        texts = [_shortened(engine, text, room - opening) for text in texts]
    tokens = 0
    for text in texts:
        length = opening + len(engine.tokenizer.encode(text))
        if length > room:
            raise ApiError("too_long", f"a text has {length} tokens and {room} fit; shorten it, or set truncate")
        tokens += length
    vectors = engine.embed(texts)
    if dimensions is not None and dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(float).tolist(), tokens


def _shortened(engine: Engine, text: str, room: int) -> str:
    """The beginning of a text that fits."""
    length = room
    while len(ids := engine.tokenizer.encode(text)) > room and length > 0:
        text = engine.tokenizer.decode(ids[:length]).rstrip("\ufffd")
        length -= 1  # a text that was cut may be encoded into a few tokens more
    return text
