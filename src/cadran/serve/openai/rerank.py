"""``POST /v1/rerank``: documents in the order of their likeness to a query. The shapes of Jina and Cohere in one.

The score is the cosine of the angle between two embeddings, from -1 to 1: it says which document is nearer, and is no
probability. Source: api-contracts 2.
"""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute
from cadran.serve.openai.vectors import vectors

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)
SCORE = "cosine of the mean final hidden states of query and document, -1 to 1"


class Document(BaseModel):
    """A text."""

    model_config = ConfigDict(extra="allow")

    text: str


class RerankRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    query: str | Document
    documents: Annotated[list[str | Document], Field(fail_fast=True)] = Field(min_length=1, max_length=2048)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(default=None, ge=1, description="Longer documents are cut; by default none.")

    def asked(self) -> list[str]:
        """The query, then the documents."""
        return [each if isinstance(each, str) else each.text for each in (self.query, *self.documents)]


@router.post("/v1/rerank")
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
async def rerank(request: Request, body: RerankRequest) -> Response:
    """Documents in the order of their likeness to a query, by the cosine of embeddings."""
    texts = body.asked()
    found = await until_gone(
        request,
        vectors(service_of(request), body.model, texts, param="documents", longest=body.max_tokens_per_doc),
    )
    scores = [float(score) for score in found.rows[1:] @ found.rows[0]]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[1 + result["index"]]}
    return JSON(
        {
            "id": f"rerank-{secrets.token_hex(12)}",
            "object": "list",
            "model": found.model,
            "results": results,
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
            "meta": {"score": SCORE},
        }
    )
