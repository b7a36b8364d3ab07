"""What several clients may follow, each from a place of its own, and as server-sent events."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadran.serve.answering import PING_SECONDS, until_gone

PING = b": ping\n\n"


class News:
    """Wakes those who wait for more. On the event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """There is more."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until there is."""
        await self._event.wait()


class Followed(Protocol):
    """What grows by events and ends at some time."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        ...

    async def news(self) -> None:
        """Wait until more can be told, or until it is over."""
        ...


class FollowedStream(Response):
    """Follows something to its end, which goes on when the client goes away.

    Args:
        followed: what is streamed.
        frames: the bytes of its events from a position on, one entry for each, as far as they have come, or only the
            first of them where there are many.
        position: of the first event.
    """

    def __init__(self, followed: Followed, frames: Callable[[int], Iterable[bytes]], position: int) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._followed, self._frames, self._position = followed, frames, position
        # Exactly the bare type: clients compare it.
        self.headers["content-type"] = "text/event-stream"
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        with suppress(ClientDisconnect, OSError):
            await until_gone(Request(scope, receive), self._write(send))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        position = self._position
        while True:
            over = self._followed.over
            pieces = list(self._frames(position))
            position += len(pieces)
            if pieces:
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
                await asyncio.sleep(0)  # sending need not wait: others, and the news that the client left, must
            elif over:
                break
            else:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await self._followed.news()
                except TimeoutError:
                    await send({"type": "http.response.body", "body": PING, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
