"""``/api/votes``: what people think of answers, kept for ``cadran finetune`` and the preference stages of a run."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from cadran.serve.answering import JSON, to_json
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.state.vote import Vote, last_votes, subject_of
from cadran.serve.vote_files import append, rating_files, rating_of

log = logging.getLogger(__name__)

router = APIRouter(tags=["Votes"])

_AT_ONCE = 500


class VoteRequest(BaseModel):
    """A thumb (``answer`` and ``liked``) or a choice (``chosen`` and ``rejected``); see ``cadran.align.ratings``."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1, description="The conversation before the answer.")
    answer: str | None = Field(default=None, description="What is judged by a thumb.")
    liked: bool | None = Field(default=None, description="Thumb up or down.")
    chosen: str | None = Field(default=None, description="The better of two answers.")
    rejected: str | None = Field(default=None, description="The other one.")
    model: str | None = Field(default=None, description="Which model gave the answer, or both of them.")
    models: dict[str, str] = Field(default={}, description="Or by answer: chosen and rejected.")
    language: str = Field(default="und", max_length=35, description="ISO 639-1 code.")
    kind: str = Field(default="rating", max_length=64, description="Figures are given by kind.")

    def record(self, by: str | None) -> dict[str, Any]:
        """The line of ``ratings.jsonl``.

        Args:
            by: who votes.

        Raises:
            ApiError: it is neither a thumb nor a choice.
        """
        choice = self.chosen is not None and self.rejected is not None
        if choice == (self.answer is not None and self.liked is not None):
            raise ApiError("invalid", "a vote is either answer with liked, or chosen with rejected; send one of them")
        names = ("chosen", "rejected") if choice else ("answer",)
        models = {name: model for name in names if (model := self.models.get(name) or self.model)}
        record: dict[str, Any] = {"messages": [_plain(message) for message in self.messages]}
        record |= {"chosen": self.chosen, "rejected": self.rejected, "kind": self.kind} if choice else {
            "answer": self.answer, "liked": self.liked}  # fmt: skip
        return record | {"language": self.language, "models": models} | ({"by": by} if by else {})


@router.post("/api/votes", status_code=201)
async def vote(request: Request, body: VoteRequest) -> Response:
    """Keep a thumb for one answer, or a choice between two."""
    service, key = service_of(request), request.scope["state"].get("key")
    record = body.record(key)
    rating = rating_of(record)
    files = rating_files(service.shelf, record["models"])
    row = Vote(
        at=time.time(), key=key, subject=subject_of(record), choice="chosen" in record, record=to_json(record)
    )  # fmt: skip
    database = await asyncio.to_thread(lambda: service.database)

    def keep(session: Session) -> int:
        session.add(row)
        session.flush()
        return row.id

    id = await database.run(keep)
    appended = await asyncio.to_thread(append, files, rating, record)
    return JSON({"id": id, "object": "vote", "appended": appended}, status_code=201)


@router.get("/api/votes/export")
async def export(request: Request, only: str | None = None) -> Response:
    """All votes as JSON lines, the last word on each answer; ``only=choices`` or ``only=thumbs`` for one kind.

    A client with an API key gets those that were given with it.
    """
    if only not in (None, "choices", "thumbs"):
        raise ApiError("invalid", "only is choices or thumbs; leave it out for both", param="only")
    service, key = service_of(request), request.scope["state"].get("key")
    database = await asyncio.to_thread(lambda: service.database)
    choices = None if only is None else only == "choices"

    async def lines() -> AsyncIterator[bytes]:
        after = 0
        while True:
            found = await database.run(
                partial(last_votes, after=after, most=_AT_ONCE, key=key, choices=choices), write=False
            )
            if not found:
                return
            after = found[-1][0]
            yield "".join(record + "\n" for _, record in found).encode("ascii")

    headers = {"content-disposition": 'attachment; filename="ratings.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what clients keep beside it."""
    return {name: message[name] for name in ("role", "content", "tool_calls") if name in message}
