"""Responses under way and stored ones, of one server: where they are found by their ids.

A response is committed before anybody is told that it is complete, so a server that is killed forgets nothing that it
said. One whose client goes away is stored as ``cancelled``.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from sqlalchemy.orm import Session

from cadran.serve.api_error import ApiError
from cadran.serve.events import Event, Failed
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.openai.responses_answer import ResponseEvents, ResponseHead, Wire, response_id_of
from cadran.serve.openai.responses_items import Item
from cadran.serve.service import Service
from cadran.serve.state import stored_response as stored

log = logging.getLogger(__name__)

T = TypeVar("T")


class LiveResponse:
    """A response under way.

    Args:
        desk: that it is kept at.
        head: of it.
        exchange: that computes it.
        key: name of the API key that asked, or None.
        items: of the request.
        keep: whether to store it.

    Attributes:
        events: what was told of it.
        done: set when it is over and stored.
    """

    def __init__(
        self,
        desk: "ResponseDesk",
        head: ResponseHead,
        exchange: Exchange,
        *,
        key: str | None,
        items: list[Item],
        keep: bool,
    ) -> None:
        self.exchange, self.key, self.items = exchange, key, items
        self.events = ResponseEvents(head)
        self.done = asyncio.Event()
        self._desk, self._keep = desk, keep
        self._told: list[Wire] = []
        self._last: Wire | None = None
        self._concluding: asyncio.Future[None] | None = None

    @property
    def id(self) -> str:
        """Of the response."""
        return self.events.head.id

    def feed(self, event: Event) -> list[Wire]:
        """See ``ResponseEvents.feed``."""
        return self._noted(self.events.feed(event))

    def _noted(self, wires: list[Wire]) -> list[Wire]:
        if self._keep:
            self._told += wires
        self._last = wires[-1] if wires else self._last
        return wires

    async def read(self) -> None:
        """Read the exchange to its end, for nobody but the record.

        Raises:
            ApiError: it failed.
        """
        async for event in self.exchange:
            self.feed(event)
            if isinstance(event, Failed):
                raise event.error

    async def conclude(self) -> Wire | None:
        """Commit it, cancelled if it goes on; may be called twice, and whoever waits for it may be cancelled.

        Returns:
            The last event, which tells of a failure where it could not be stored; None when there was none.
        """
        if self._concluding is None:
            if not self.events.over:
                self._noted(self.events.cancel())
            self._concluding = asyncio.ensure_future(self._store())
        await asyncio.shield(self._concluding)
        return self._last

    async def _store(self) -> None:
        try:
            if self._keep:
                await self._desk.store(self.key, self.events.snapshot(), self.items, self._told)
        except Exception as error:
            # Not the whole error: the database's repeats what was to be written, which is nobody else's business.
            reason = f"{type(error).__name__}: {getattr(error, 'orig', '')}"
            log.error("a response could not be stored", extra={"response": self.id, "reason": reason})
            problem = "the response could not be stored; ask again with store false, or see the server's log"
            self._last = self.events.fail(ApiError("internal", problem))
        finally:
            self._desk.live.pop(self.id, None)
            self.done.set()


class ResponseDesk:
    """Finds responses.

    Args:
        service: whose database holds the stored ones.

    Attributes:
        live: streamed responses under way that will be stored, by id.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.live: dict[str, LiveResponse] = {}

    @property
    def keeps(self) -> bool:
        """Whether responses are stored at all."""
        return self._service.settings.stored_responses > 0

    async def store(self, key: str | None, body: dict[str, Any], items: list[Item], events: list[Wire]) -> None:
        """Commit a response."""
        most = self._service.settings.stored_responses
        await self._run(
            lambda session: stored.store(session, stored.StoredResponse.of(key, body, items, events), most), write=True
        )

    def find(self, id: str, key: str | None) -> LiveResponse | None:
        """A response under way that was asked for with the key."""
        live = self.live.get(id)
        return live if live is not None and live.key == key else None

    async def body(self, id: str, key: str | None) -> dict[str, Any]:
        """A response, as it stands.

        Raises:
            ApiError: there is none that was made with the key.
        """
        if (live := self.find(id, key)) is not None:
            return live.events.snapshot()
        return await self._run(lambda session: stored.read_body(session, id, key))

    async def input(self, id: str, key: str | None) -> list[Item]:
        """The items of its request; raises as ``body``."""
        if (live := self.find(id, key)) is not None:
            return live.items
        return await self._run(lambda session: stored.read_input(session, id, key))

    async def events(self, id: str, key: str | None) -> list[Wire]:
        """The events of its stream, once it is over; raises as ``body``."""
        if (live := self.find(id, key)) is not None:
            await live.done.wait()
        return await self._run(lambda session: stored.read_events(session, id, key))

    async def forget(self, id: str, key: str | None) -> None:
        """Delete it; raises as ``body``, also while it is under way."""
        if self.find(id, key) is not None:
            raise ApiError("conflict", "the response is being made; cancel it first")
        await self._run(lambda session: stored.forget(session, id, key), write=True)

    async def conversation(self, previous: str | None, items: list[Item], key: str | None) -> list[Item]:
        """All items that a request means.

        Args:
            previous: the response that it continues.
            items: its own; references among them are replaced by what they mean.
            key: whose responses may be looked at.

        Raises:
            ApiError: a response or an item is not there.
        """
        earlier: list[Item] = []
        if previous is not None:
            if self.find(previous, key) is not None:
                problem = "the response that is to be continued is being made; wait for its end"
                raise ApiError("conflict", problem, param="previous_response_id")
            earlier = await self._run(lambda session: stored.read_conversation(session, previous, key))
        wanted = {item["id"] for item in items if item["type"] == "item_reference"}
        if wanted:
            known = {item["id"]: item for item in (*earlier, *items) if item["type"] != "item_reference"}
            for response in {response_id_of(id) for id in wanted - known.keys()}:
                known |= {item["id"]: item for item in await self._run(_items_of(response, key))}
            for number, item in enumerate(items):
                if item["type"] == "item_reference":
                    if item["id"] not in known:
                        problem = f"there is no item {item['id'][:80]!r} here; send the item itself"
                        raise ApiError("not_found", problem, param=f"input.{number}")
                    items[number] = known[item["id"]]
        return [*earlier, *items]

    async def _run(self, work: Callable[[Session], T], *, write: bool = False) -> T:
        service = self._service
        if "database" not in vars(service):
            await asyncio.to_thread(lambda: service.database)
        return await service.database.run(work, write=write)


def _items_of(response: str, key: str | None) -> Callable[[Session], list[Item]]:
    return lambda session: stored.read_items(session, response, key)


def desk_of(request: Request) -> ResponseDesk:
    """The desk of the server behind a request."""
    state = request.app.state
    if getattr(state, "responses", None) is None:
        state.responses = ResponseDesk(service_of(request))
    desk = state.responses
    assert isinstance(desk, ResponseDesk)
    return desk


def key_of(request: Request) -> str | None:
    """Name of the API key that a request came with; None where none is needed."""
    key = request.scope.get("state", {}).get("key")
    return None if key is None else str(key)


def new_response_id() -> str:
    """Of a response that is about to be made."""
    return f"resp_{secrets.token_hex(12)}"
