"""Request accounting: what was computed, and for whom. Nothing of what was said."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import BigInteger, Double, Integer, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from cadran.serve.state.base import Base

Serial = BigInteger().with_variant(Integer, "sqlite")
"""Only a plain INTEGER counts by itself in SQLite; it has 64 bits there."""


class Usage(Base):
    """An answer that is over, or texts that were embedded, ranked or decided about: those generate nothing.

    Attributes:
        at: when it ended, seconds since 1970.
        key: name of the API key; None where none is needed.
        model: name of the model that computed.
        route: template of the path that was asked.
        prompt_tokens, cached_tokens, generated_tokens: as the client was told.
        seconds: from the request's arrival to its end.
        outcome: ``done``, ``failed`` or ``cancelled``.
    """

    __tablename__ = "usage"

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    at: Mapped[float] = mapped_column(Double, index=True)
    key: Mapped[str | None] = mapped_column(String(64), index=True)
    model: Mapped[str] = mapped_column(Text)
    route: Mapped[str] = mapped_column(Text)
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    cached_tokens: Mapped[int] = mapped_column(Integer)
    generated_tokens: Mapped[int] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Double)
    outcome: Mapped[str] = mapped_column(String(16))


class Spent(NamedTuple):
    """What a key, or everybody without one, has used so far."""

    answers: int
    prompt_tokens: int
    generated_tokens: int


def spent_by_key(session: Session) -> Mapping[str | None, Spent]:
    """What was used, by name of the key; None stands for those who needed none."""
    sums = (func.count(), func.sum(Usage.prompt_tokens), func.sum(Usage.generated_tokens))
    rows = session.execute(select(Usage.key, *sums).group_by(Usage.key))
    return {key: Spent(int(answers), int(read), int(generated)) for key, answers, read, generated in rows}
