"""``POST /v1/embeddings``. Source: api-contracts 2."""

import asyncio
import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute
from cadran.serve.openai.sampling_fields import Ids, Texts
from cadran.serve.openai.vectors import Input, Vectors, vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)
INPUTS = 2048


class EmbeddingRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    input: str | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)

    def asked(self) -> list[Input]:
        """The inputs one by one.

        Raises:
            ApiError: there is none, or there are too many.
        """
        match self.input:
            case str() | [int(), *_]:
                return [self.input]  # type: ignore[list-item]
            case [_, *_] if len(self.input) <= INPUTS:
                return [*self.input]
        raise ApiError("invalid", f"input holds {len(self.input)} texts; give 1 to {INPUTS}", param="input")


@router.post("/v1/embeddings")
@router.post("/embeddings", include_in_schema=False)
async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
    """Texts as vectors: the mean of the final hidden states of each, of length one."""
    found = await until_gone(request, vectors(service_of(request), body.model, body.asked()))
    return await asyncio.to_thread(_answer, body, found)


def _answer(body: EmbeddingRequest, found: Vectors) -> JSON:
    rows = _cut(found.rows, body.dimensions)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(row, body.encoding_format)}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return JSON({"object": "list", "model": found.model, "data": data, "usage": usage})


def _cut(rows: "NDArray[np.float32]", dimensions: int | None) -> "NDArray[np.float32]":
    """The first dimensions, of length one again."""
    import numpy as np

    width = rows.shape[1]
    if dimensions is None or dimensions == width:
        return rows
    if dimensions > width:
        raise ApiError("invalid", f"this model has {width} dimensions; ask for no more", param="dimensions")
    cut = rows[:, :dimensions].astype(np.float64)
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.maximum(lengths, np.finfo(np.float64).tiny), np.float32)


def _written(row: "NDArray[np.float32]", format: str | None) -> Any:
    if format == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return row.tolist()
