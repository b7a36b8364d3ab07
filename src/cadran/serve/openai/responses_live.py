"""A response under way, from its first event until it is stored: for the client that waits, or for nobody at all.

It is committed before anybody is told that it is over, so a server that is killed forgets nothing that it said. One
whose client goes away is stored as ``cancelled``, unless it is made in the background: then it goes on.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from cadran.serve.api_error import ApiError
from cadran.serve.events import Event, Failed
from cadran.serve.exchange import Exchange
from cadran.serve.followed import News
from cadran.serve.openai.responses_answer import ResponseEvents, ResponseHead, Wire
from cadran.serve.openai.responses_items import Item

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Where responses are kept."""

    async def keep(self, live: "LiveResponse") -> None:
        """Commit a response that is over.

        Raises:
            ApiError: it was deleted or ended by somebody.
        """
        ...

    def ended(self, live: "LiveResponse") -> None:
        """It is stored, or will not be: it is under way no more."""
        ...


class LiveResponse:
    """A response under way. On the event loop.

    Args:
        keeper: that it is kept at.
        head: of it.
        key: name of the API key that asked, or None.
        items: of the request.
        keep: whether to store it.
        exchange: that computes it; None where it waits for its place yet.
        background: whether it goes on without a client; ``register`` it then.
        size: characters of the request.

    Attributes:
        events: what was told of it.
        told: the events of its stream, where it is stored.
        done: set when it is over and stored.
        begun: set when it has its place, or is over.
        registered: set when the database knows of one in the background, or never will.
        recorded: the status that the database knows.
        refused: why it never began.
    """

    def __init__(
        self, keeper: Keeper, head: ResponseHead, *, key: str | None, items: list[Item], keep: bool,
        exchange: Exchange | None = None, background: bool = False, size: int = 0,
    ) -> None:  # fmt: skip
        self.exchange, self.key, self.items, self.background = exchange, key, items, background
        self.events = ResponseEvents(head, queued=background)
        self.done, self.begun, self.registered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.recorded = self.events.status
        self.refused: ApiError | None = None
        self.told: list[Wire] = []
        self._keeper, self._keep, self._size, self._news = keeper, keep, size, News()
        self._tells = keep
        self._last: Wire | None = None
        self._concluding: asyncio.Future[None] | None = None
        if background:
            self._noted(self.events.begin())

    @property
    def id(self) -> str:
        """Of the response."""
        return self.events.head.id

    @property
    def bytes(self) -> int:
        """Memory that it takes, roughly: the request as it came and as it is read, and what was told."""
        return 4000 + 3 * self._size + len(self.told) * (700 if self.events.head.logprobs is None else 10_000)

    @property
    def over(self) -> bool:
        """Whether nothing more will be told."""
        return self.done.is_set()

    @property
    def concluding(self) -> bool:
        """Whether its end has come; it may be being stored."""
        return self._concluding is not None

    async def news(self) -> None:
        """Wait until more can be told."""
        await self._news.wait()

    def told_from(self, position: int) -> Sequence[Wire]:
        """The events from a position on; the last one once it is stored."""
        unstored = self.events.over and not self.done.is_set()
        return self.told[position : len(self.told) - unstored]

    def feed(self, event: Event) -> list[Wire]:
        """See ``ResponseEvents.feed``."""
        return self._noted(self.events.feed(event))

    def fail(self, error: ApiError) -> None:
        """End it with an error, unless it is over."""
        if self.events.over:
            return
        if self.events.status == "queued":
            self.refused = error
        self.feed(Failed(error))

    def cancel(self) -> None:
        """End it at somebody's wish, unless it is over."""
        self._noted(self.events.cancel())

    def drop(self) -> None:
        """Nobody will ask for it: do not store it."""
        self._keep = False

    def _noted(self, wires: list[Wire]) -> list[Wire]:
        if self._tells:
            self.told += wires
        self._last = wires[-1] if wires else self._last
        if self.events.status != "queued":
            self.begun.set()
        self._news.tell()
        return wires

    async def read(self) -> None:
        """Read the exchange to its end, for nobody but the record.

        Raises:
            ApiError: it failed.
        """
        assert self.exchange is not None
        async for event in self.exchange:
            self.feed(event)
            if isinstance(event, Failed):
                raise event.error

    async def conclude(self) -> Wire | None:
        """Commit it, cancelled if it goes on; may be called twice, and whoever waits for it may be cancelled.

        Returns:
            The last event, which tells of a failure where it could not be stored; None when there was none.
        """
        await asyncio.shield(self.conclude_soon())
        return self._last

    def conclude_soon(self) -> asyncio.Future[None]:
        """Begin to do so."""
        if self._concluding is None:
            self.cancel()
            self._concluding = asyncio.ensure_future(self._store())
        return self._concluding

    async def _store(self) -> None:
        try:
            if self.background:
                await self.registered.wait()
            if self._keep:
                await self._keeper.keep(self)
        except ApiError as error:
            self._replace_last(error)
        except Exception as error:
            # Not the whole error: the database's repeats what was to be written, which is nobody else's business.
            reason = f"{type(error).__name__}: {getattr(error, 'orig', '')}"
            log.error("a response could not be stored", extra={"response": self.id, "reason": reason})
            problem = "the response could not be stored; ask again with store false, or see the server's log"
            self._replace_last(ApiError("internal", problem))
        finally:
            self._keeper.ended(self)
            self.done.set()
            self._news.tell()

    def _replace_last(self, error: ApiError) -> None:
        self._last = self.events.fail(error)
        self.told[-1:] = [self._last]
