"""API keys: who may ask, how much, and until when. The database holds their SHA-256, never the keys.

A key is 256 random bits, so its hash needs no salt and no slow function: there is nothing to guess. Looking a hash up
tells the clock nothing about a key either, because nobody can choose what a hash begins with.
"""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Double, Integer, String, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from cadran.errors import UserError
from cadran.serve.state.base import Base

PREFIX = "cadran-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class ApiKey(Base):
    """A key.

    Attributes:
        name: what logs and accounts say instead of the key.
        hash: SHA-256 of the key, hexadecimal.
        created, expires: seconds since 1970; ``expires`` None for never.
        requests_per_minute, tokens_per_minute: its own limits; None takes those of the settings.
    """

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[float] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What the server needs to know of a key; see ``ApiKey``."""

    name: str
    hash: str
    created: float
    expires: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def valid(self, now: float) -> bool:
        """Whether it has not expired at ``now``, seconds since 1970."""
        return self.expires is None or now < self.expires


def key_hash(key: str) -> str:
    """What the database holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(
    session: Session,
    name: str,
    *,
    expires: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """Make a key.

    Args:
        session: committed by whoever opened it; only then the key is valid.
        name: letters, digits, ``.``, ``_``, ``@`` and ``-``, up to 64.
        expires: seconds since 1970.
        requests_per_minute: its own limit.
        tokens_per_minute: its own limit of generated tokens.

    Returns:
        The key. Nobody can read it from the database afterwards.

    Raises:
        UserError: the name is taken, or is none; the date is in the past.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name[:80]!r} cannot name a key; use up to 64 letters, digits, '.', '_', '@' and '-'")
    now = time.time()
    if expires is not None and expires <= now:
        raise UserError("a key that has expired already opens nothing; give a later date with --expires")
    key = PREFIX + secrets.token_urlsafe(32)
    session.add(
        ApiKey(
            name=name, hash=key_hash(key), created=now, expires=expires, requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
    )  # fmt: skip
    try:
        session.flush()
    except IntegrityError as error:
        raise UserError(f"there is a key {name} already; remove it first with cadran keys rm {name}") from error
    return key


def known_keys(session: Session) -> list[KnownKey]:
    """All keys by name, those that have expired among them."""
    rows = session.scalars(select(ApiKey).order_by(ApiKey.name))
    return [
        KnownKey(row.name, row.hash, row.created, row.expires, row.requests_per_minute, row.tokens_per_minute)
        for row in rows
    ]


def remove_key(session: Session, name: str) -> None:
    """Take a key away; servers turn it down within a second or two.

    Raises:
        UserError: there is none of that name.
    """
    if session.scalar(delete(ApiKey).where(ApiKey.name == name).returning(ApiKey.id)) is None:
        names = ", ".join(key.name for key in known_keys(session)) or "none"
        raise UserError(f"there is no key {name}: those there are: {names}")
