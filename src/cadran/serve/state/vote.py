"""Votes: what people thought of answers, as the lines that ``cadran.align.ratings`` reads."""

import hashlib
import json
from typing import Any

from sqlalchemy import Boolean, Double, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from cadran.serve.state.base import Base
from cadran.serve.state.usage import Serial


class Vote(Base):
    """A thumb for one answer, or a choice between two.

    Attributes:
        at: when it was given, seconds since 1970.
        key: name of the API key of whoever gave it; None where none is needed.
        subject: hash of what was judged; who judges the same again changes his mind.
        choice: whether it is a choice.
        record: the line of ``ratings.jsonl``, as JSON in ASCII.
    """

    __tablename__ = "vote"

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    at: Mapped[float] = mapped_column(Double)
    key: Mapped[str | None] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(64), index=True)
    choice: Mapped[bool] = mapped_column(Boolean)
    record: Mapped[str] = mapped_column(Text)


def subject_of(record: dict[str, Any]) -> str:
    """The same for votes on the same answers to the same conversation, whichever of two answers was chosen."""
    answers = sorted((record["chosen"], record["rejected"])) if "chosen" in record else record["answer"]
    judged = [[[message["role"], message["content"]] for message in record["messages"]], answers]
    return hashlib.sha256(json.dumps(judged).encode("ascii")).hexdigest()


def last_votes(session: Session, after: int, most: int, key: str | None, choices: bool | None) -> list[tuple[int, str]]:
    """The last word on each answer, in order of time, some at once.

    Args:
        session: to read with.
        after: id of the last one that is known; 0 for none.
        most: how many.
        key: only those given with it; None for all.
        choices: only choices, or only thumbs; None for both.

    Returns:
        Ids and records.
    """
    last = select(func.max(Vote.id)).group_by(Vote.subject)
    found = select(Vote.id, Vote.record).where(Vote.id > after).order_by(Vote.id).limit(most)
    if key is not None:
        last, found = last.where(Vote.key == key), found.where(Vote.key == key)
    if choices is not None:
        found = found.where(Vote.choice == choices)
    return [(id, record) for id, record in session.execute(found.where(Vote.id.in_(last)))]
