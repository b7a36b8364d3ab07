"""Responses that are made in the background: in the database from their beginning, under a lease that is renewed.

A lease that has run out says that the server is gone, killed perhaps. One that is taken away (the response was deleted,
or cancelled through another server of the same database) ends the response here at the next renewal.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from cadran.serve.api_error import ApiError
from cadran.serve.background import REFUSAL_SECONDS, Background
from cadran.serve.exchange import Exchange
from cadran.serve.openai.responses_live import LiveResponse
from cadran.serve.service import Service
from cadran.serve.state import stored_response as stored

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""After so long without a renewal a response has failed for whoever asks."""
RENEW_SECONDS = 5.0
MOST_BYTES = 256 << 20
"""Memory that those under way may take, roughly."""

T = TypeVar("T")


class Run(Protocol):
    """Does work with the database; see ``Database.run``."""

    async def __call__(self, work: Callable[[Session], T], *, write: bool = False) -> T:
        """What the work returns."""
        ...


class BackgroundResponses:
    """Those of one server.

    Args:
        service: that computes them.
        live: responses under way, by id; those in the background are put there.
        run: reaches the stored ones.
    """

    def __init__(self, service: Service, live: dict[str, LiveResponse], run: Run) -> None:
        settings = service.settings
        most = settings.parallel + settings.queue
        self._background = Background(service, "responses", most=most, most_bytes=MOST_BYTES)
        self._live, self._run = live, run
        self._renewing: asyncio.Task[None] | None = None
        service.endings.append(self.end)

    async def start(self, live: LiveResponse, begin: Callable[[], Awaitable[Exchange]]) -> dict[str, Any]:
        """Begin a response; when this returns the database knows of it.

        Whoever waits for this may be cancelled: nobody has heard of the response then, and it ends.

        Args:
            live: of it.
            begin: has the request admitted.

        Returns:
            The response object, as it stood before anything happened.

        Raises:
            ApiError: it is refused.
        """
        first = live.events.snapshot()
        self._background.start(live, begin, ended=live.conclude_soon)
        self._live[live.id] = live
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL_SECONDS):
                    await live.begun.wait()
            if live.refused is not None:
                raise live.refused
            await self._register(live, first)
        except BaseException:
            live.drop()
            live.registered.set()
            await self._background.cancel(live)
            raise
        live.registered.set()
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), context=Context())  # for no request in particular
        return first

    async def _register(self, live: LiveResponse, body: Mapping[str, Any]) -> None:
        def insert(session: Session) -> None:
            session.add(stored.StoredResponse.of(live.key, dict(body), live.items, [], time.time() + LEASE_SECONDS))

        try:
            await self._run(insert, write=True)
        except SQLAlchemyError as error:
            log.error("a response could not be stored", extra={"response": live.id, "reason": _reason(error)})
            problem = "the response could not be stored, so it was not begun; see the server's log"
            raise ApiError("internal", problem) from None

    async def cancel(self, live: LiveResponse) -> None:
        """End a response; when this returns its place is free and what there is of it is stored."""
        await self._background.cancel(live)
        await live.done.wait()

    async def end(self) -> None:
        """The server stops: wait until all are stored as what they have become."""
        await self._background.end()
        for live in [live for live in self._live.values() if live.background]:
            await live.done.wait()
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self) -> None:
        while any(live.background for live in self._live.values()):
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._renewed()
            except Exception as error:  # the database is away, perhaps: it may be back before the leases run out
                log.warning("the leases of responses could not be renewed", extra={"reason": _reason(error)})

    async def _renewed(self) -> None:
        going = {
            live.id: live
            for live in self._live.values()
            if live.background and live.registered.is_set() and not live.events.over
        }
        if not going:
            return
        changed = {id: live.events.snapshot() for id, live in going.items() if live.events.status != live.recorded}
        until = time.time() + LEASE_SECONDS
        there = await self._run(lambda session: stored.renew(session, going.keys(), until, changed), write=True)
        for id, live in going.items():
            if id in changed:
                live.recorded = changed[id]["status"]
            if id not in there and not live.events.over:
                live.drop()
                await self._background.cancel(live)


def _reason(error: Exception) -> str:
    """Not the whole of it: the database's repeats what was to be written, which is nobody else's business."""
    return f"{type(error).__name__}: {getattr(error, 'orig', '')}"
