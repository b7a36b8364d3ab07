"""Responses under way and stored ones, of one server: where they are found by their ids.

Those of one API key are not found with another. One that is made in the background may be under way in another server
of the same database, or in one that is gone, which its lease tells.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from sqlalchemy.orm import Session

from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.openai.responses_answer import Wire, cut_off, response_id_of
from cadran.serve.openai.responses_background import BackgroundResponses
from cadran.serve.openai.responses_items import Item
from cadran.serve.openai.responses_live import LiveResponse
from cadran.serve.service import Service
from cadran.serve.state import stored_response as stored

LOST = "the server that made the response has stopped before its end; ask again"

T = TypeVar("T")


class ResponseDesk:
    """Finds responses.

    Args:
        service: whose database holds the stored ones.

    Attributes:
        live: responses under way that are stored at their end, by id: streamed ones, and those in the background.
        background: makes the latter.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.live: dict[str, LiveResponse] = {}
        self.background = BackgroundResponses(service, self.live, self._run)
        service.closings.append(self._settled)

    @property
    def keeps(self) -> bool:
        """Whether responses are stored at all."""
        return self._service.settings.stored_responses > 0

    async def _settled(self) -> None:
        """Wait until all whose end has come are stored."""
        for live in [live for live in self.live.values() if live.concluding]:
            await live.done.wait()

    async def keep(self, live: LiveResponse) -> None:
        """See ``Keeper``."""
        most, body = self._service.settings.stored_responses, live.events.snapshot()

        def commit(session: Session) -> bool:
            row = stored.StoredResponse.of(live.key, body, live.items, live.told)
            if live.background:
                return stored.finish(session, row, most)
            stored.store(session, row, most)
            return True

        if not await self._run(commit, write=True):
            raise ApiError("conflict", "the response was deleted or cancelled while it was being made; ask again")

    def ended(self, live: LiveResponse) -> None:
        """See ``Keeper``."""
        self.live.pop(live.id, None)

    def find(self, id: str, key: str | None) -> LiveResponse | None:
        """A response under way here that was asked for with the key."""
        live = self.live.get(id)
        return live if live is not None and live.key == key else None

    async def body(self, id: str, key: str | None) -> dict[str, Any]:
        """A response, as it stands; that it is over is told only when it is stored.

        Raises:
            ApiError: there is none that was made with the key.
        """
        if (live := self.find(id, key)) is not None:
            if not live.events.over:
                return live.events.snapshot()
            await live.done.wait()
        await self._lease(id, key)
        return await self._run(lambda session: stored.read_body(session, id, key))

    async def input(self, id: str, key: str | None) -> list[Item]:
        """The items of its request; raises as ``body``."""
        if (live := self.find(id, key)) is not None:
            return live.items
        return await self._run(lambda session: stored.read_input(session, id, key))

    async def events(self, id: str, key: str | None) -> list[Wire]:
        """The events of the stream of one that is not under way here; raises as ``body``."""
        if await self._lease(id, key) is not None:
            raise ApiError("conflict", "the response is being made by another server; ask for it without stream")
        return await self._run(lambda session: stored.read_events(session, id, key))

    async def cancel(self, id: str, key: str | None) -> dict[str, Any]:
        """End a response that is made in the background; one that is over stays as it is.

        Returns:
            What there is of it.

        Raises:
            ApiError: as ``body``; it is not made in the background.
        """
        body = await self.body(id, key)
        if not body["background"]:
            problem = "the response is not made in the background; it ends when its connection is closed"
            raise ApiError("invalid", problem)
        if (live := self.find(id, key)) is not None:
            await self.background.cancel(live)
        while (lease := await self._lease(id, key)) is not None:  # in another server, which will see it
            await self._end(id, key, lease, None)
        return await self.body(id, key)

    async def forget(self, id: str, key: str | None) -> None:
        """Delete it; one that is under way is cancelled. Raises as ``body``."""
        live = self.find(id, key)
        if live is not None:
            live.drop()
            if live.background:
                await self.background.cancel(live)
            elif live.concluding:
                await live.done.wait()
            elif live.exchange is not None:
                live.exchange.close()
                self.ended(live)
        try:
            await self._run(lambda session: stored.forget(session, id, key), write=True)
        except ApiError:
            if live is None:
                raise

    async def _lease(self, id: str, key: str | None) -> float | None:
        """Until when another server vouches for the response; None where it is over, also if none vouches any more."""
        while (lease := await self._run(lambda session: stored.read_lease(session, id, key))) is not None:
            if lease >= time.time():
                return lease
            await self._end(id, key, lease, ApiError("internal", LOST))
        return None

    async def _end(self, id: str, key: str | None, lease: float, error: ApiError | None) -> None:
        body = await self._run(lambda session: stored.read_body(session, id, key))
        ended, events = cut_off(body, error)
        await self._run(lambda session: stored.end(session, ended, events, lease), write=True)

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
            if self.find(previous, key) is not None or await self._lease(previous, key) is not None:
                problem = "the response that is to be continued is not completed; wait for its end"
                raise ApiError("invalid", problem, param="previous_response_id")
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
