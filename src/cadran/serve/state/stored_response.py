"""Responses that can be asked for again, and be continued. Source: api-contracts 3.1 and 3.4.

A response is committed before its completion is acknowledged. One that is made in the background is there from its
beginning, under a lease that its server renews: where that has run out, the server is gone. Texts are kept as ASCII
JSON: some databases refuse a zero character, or half of a surrogate pair, that a client may well send.
"""

import json
import re
import time
import zlib
from collections.abc import Collection
from typing import Any, NoReturn

from sqlalchemy import Double, LargeBinary, String, Text, delete, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from cadran.serve.api_error import ApiError
from cadran.serve.state.base import Base
from cadran.serve.state.usage import Serial

MOST_CHARACTERS = 64 << 20
"""Of a conversation that is put together from stored responses, as JSON."""
_RESPONSE_ID = re.compile("resp_[0-9a-f]{24}")

Items = list[dict[str, Any]]


class StoredResponse(Base):
    """A response with all that is kept of it.

    Attributes:
        id: in order of arrival.
        response: the id that clients know.
        key: name of the API key that made it; None where none is needed.
        previous: the response that it continues.
        body: the response object, JSON.
        input: the items of its own request, JSON.
        events: of its stream: JSON, compressed by zlib, in which they shrink to a tenth.
        lease: until when, in seconds since 1970, its server vouches that it is being made; None when it is over.
    """

    __tablename__ = "stored_response"

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    response: Mapped[str] = mapped_column(String(64), unique=True)
    key: Mapped[str | None] = mapped_column(String(64), index=True)
    previous: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(Text)
    input: Mapped[str] = mapped_column(Text)
    events: Mapped[bytes] = mapped_column(LargeBinary)
    lease: Mapped[float | None] = mapped_column(Double)

    @classmethod
    def of(
        cls, key: str | None, body: dict[str, Any], input: Items, events: Items, lease: float | None = None
    ) -> "StoredResponse":
        """A row.

        Args:
            key: of the one who asked.
            body: the response object.
            input: items of the request.
            events: of the stream.
            lease: see the class.
        """
        return cls(
            response=body["id"], key=key, previous=body["previous_response_id"], body=json.dumps(body),
            input=json.dumps(input), events=_packed(events), lease=lease,
        )  # fmt: skip


def store(session: Session, row: StoredResponse, most: int) -> None:
    """Add a response; of those made with the same key the oldest that are over go.

    Args:
        session: to write with.
        row: of it.
        most: how many of a key are kept, beside those under way, which admission bounds.
    """
    session.add(row)
    session.flush()
    over = or_(StoredResponse.lease.is_(None), StoredResponse.lease < time.time())
    mine = (StoredResponse.key == row.key, over)
    newest = select(StoredResponse.id).where(*mine).order_by(StoredResponse.id.desc())
    last = session.scalar(newest.offset(most).limit(1))
    if last is not None:
        session.execute(delete(StoredResponse).where(*mine, StoredResponse.id <= last))


def finish(session: Session, row: StoredResponse, most: int) -> bool:
    """Replace a response under way by the whole of it, which counts as the newest; else as ``store``.

    Returns:
        False where it is under way no more: somebody has deleted or ended it.
    """
    leased = (StoredResponse.response == row.response, StoredResponse.lease.is_not(None))
    if not session.execute(delete(StoredResponse).where(*leased).returning(StoredResponse.id)).all():
        return False
    store(session, row, most)
    return True


def renew(session: Session, ids: Collection[str], until: float, bodies: dict[str, dict[str, Any]]) -> set[str]:
    """Vouch for responses under way.

    Args:
        session: to write with.
        ids: of them.
        until: the new lease.
        bodies: what some of them have become, by id.

    Returns:
        Those that are still under way; others were deleted or ended by somebody.
    """
    leased = (StoredResponse.response.in_(ids), StoredResponse.lease.is_not(None))
    renewed = update(StoredResponse).where(*leased).values(lease=until).returning(StoredResponse.response)
    there = set(session.scalars(renewed))
    for id in there & bodies.keys():
        changed = update(StoredResponse).where(StoredResponse.response == id)
        session.execute(changed.values(body=json.dumps(bodies[id])))
    return there


def read_lease(session: Session, id: str, key: str | None) -> float | None:
    """Until when a response is vouched for; None where it is over or not there. As ``read_body``."""
    if not _RESPONSE_ID.fullmatch(id):
        return None
    return session.scalar(select(StoredResponse.lease).where(StoredResponse.response == id, StoredResponse.key == key))


def end(session: Session, body: dict[str, Any], events: Items, lease: float) -> bool:
    """End a response that is made elsewhere, or was.

    Args:
        session: to write with.
        body: the response object, ended.
        events: of its stream.
        lease: that was read.

    Returns:
        False where it was renewed or has ended meanwhile; nothing was changed then.
    """
    there = (StoredResponse.response == body["id"], StoredResponse.lease == lease)
    ended = update(StoredResponse).where(*there).values(lease=None, body=json.dumps(body), events=_packed(events))
    return bool(session.scalars(ended.returning(StoredResponse.id)).all())


def read_body(session: Session, id: str, key: str | None) -> dict[str, Any]:
    """A response object.

    Args:
        session: to read with.
        id: that clients know.
        key: of the one who asks; nobody sees what was made with another.

    Raises:
        ApiError: there is none.
    """
    body: dict[str, Any] = json.loads(_column(session, StoredResponse.body, id, key))
    return body


def read_input(session: Session, id: str, key: str | None) -> Items:
    """The items of its request; as ``read_body``."""
    items: Items = json.loads(_column(session, StoredResponse.input, id, key))
    return items


def read_events(session: Session, id: str, key: str | None) -> Items:
    """The events of its stream; as ``read_body``."""
    events: Items = json.loads(zlib.decompress(_column(session, StoredResponse.events, id, key)))
    return events


def forget(session: Session, id: str, key: str | None) -> None:
    """Delete a response; as ``read_body``."""
    _known(id)
    gone = delete(StoredResponse).where(StoredResponse.response == id, StoredResponse.key == key)
    if not session.execute(gone.returning(StoredResponse.id)).all():
        _missing(id)


def read_conversation(session: Session, id: str, key: str | None) -> Items:
    """All items up to a response: those of every request and answer of its chain, in order.

    Args:
        session: to read with.
        id: of the last response.
        key: as in ``read_body``.

    Raises:
        ApiError: a response of the chain is not there, or all together are too long for any model.
    """
    param = "previous_response_id"
    turns: list[Items] = []
    size = 0
    at: str | None = id
    while at is not None:
        _known(at, param)
        wanted = select(StoredResponse.previous, StoredResponse.input, StoredResponse.body)
        row = session.execute(wanted.where(StoredResponse.response == at, StoredResponse.key == key)).first()
        if row is None:
            _missing(at, param)
        previous, asked, body = row
        size += len(asked) + len(body)
        if size > MOST_CHARACTERS:
            problem = f"the conversation before has more than {MOST_CHARACTERS} characters; begin a new one"
            raise ApiError("too_long", problem, param=param)
        turns.append([*json.loads(asked), *json.loads(body)["output"]])
        at = previous
    return [item for turn in reversed(turns) for item in turn]


def read_items(session: Session, id: str, key: str | None) -> Items:
    """The items of one response, of request and answer; none where it is not there."""
    if not _RESPONSE_ID.fullmatch(id):
        return []
    wanted = select(StoredResponse.input, StoredResponse.body)
    row = session.execute(wanted.where(StoredResponse.response == id, StoredResponse.key == key)).first()
    return [] if row is None else [*json.loads(row[0]), *json.loads(row[1])["output"]]


def _column(session: Session, column: InstrumentedAttribute[Any], id: str, key: str | None) -> Any:
    _known(id)
    found = session.scalar(select(column).where(StoredResponse.response == id, StoredResponse.key == key))
    if found is None:
        _missing(id)
    return found


def _known(id: str, param: str | None = None) -> None:
    """Ids of another form are nowhere, and some of them no database would take."""
    if not _RESPONSE_ID.fullmatch(id):
        _missing(id, param)


def _missing(id: str, param: str | None = None) -> NoReturn:
    problem = f"there is no response {id[:80]!r} here; it was deleted, is too old or was not stored"
    raise ApiError("not_found", problem, param=param)


def _packed(events: Items) -> bytes:
    return zlib.compress(json.dumps(events).encode("ascii"), 1)
