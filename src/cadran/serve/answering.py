"""Answering over HTTP: streams that end when the client goes away, and work that does too."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadran.serve.events import Event
from cadran.serve.exchange import Exchange

T = TypeVar("T")

PING_SECONDS = 15.0


def to_json(content: object) -> str:
    """JSON in ASCII: some clients cut lines at every Unicode line separator, also within a text."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def sse(data: object, event: str | None = None, id: str | None = None) -> bytes:
    """A server-sent event.

    Args:
        data: a text, whose lines become lines of data, or plain data, written as JSON.
        event: its name.
        id: of it.
    """
    head = (f"event: {event}\n" if event else "") + (f"id: {id}\n" if id else "")
    text = data if isinstance(data, str) else to_json(data)
    return (head + "".join(f"data: {line}\n" for line in text.split("\n")) + "\n").encode()


def ndjson(data: object) -> bytes:
    """A line of JSON."""
    return (to_json(data) + "\n").encode("ascii")


class JSON(Response):
    """A JSON answer in ASCII."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The bytes of it."""
        return to_json(content).encode("ascii")


class Translator(Protocol):
    """From events to the bytes of one API's stream. Pure: no clock but the one it was made with, no I/O."""

    media_type: str

    def feed(self, event: Event) -> Iterable[bytes]:
        """What an event means to the client; also ``Failed``, and the end of the stream with ``Used``."""
        ...

    def ping(self) -> bytes:
        """What keeps a connection alive while nothing is said; b"" for nothing."""
        ...


class StreamAnswer(Response):
    """Streams an exchange. When the client goes away nothing more is computed, whatever is being waited for.

    Args:
        exchange: closed by this.
        translator: makes the bytes.
        headers: further ones.
        status: of the answer.
    """

    def __init__(
        self, exchange: Exchange, translator: Translator, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        self.exchange, self.translator, self._said = exchange, translator, 0.0
        super().__init__(status_code=status, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        # Exactly the bare type: replicate compares it.
        self.headers["content-type"] = translator.media_type
        del self.headers["content-length"]
        self.headers.update(headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                writing.cancel()
            with suppress(asyncio.CancelledError, OSError, ClientDisconnect):
                await writing
        finally:
            leaving.cancel()
            writing.cancel()
            self.exchange.close()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._said = monotonic()
        pinging = asyncio.create_task(self._keep_alive(send))
        try:
            async with aclosing(aiter(self.exchange)) as events:
                async for event in events:
                    if pieces := await self._pieces(event):
                        self._said = monotonic()
                        await send({"type": "http.response.body", "body": pieces, "more_body": True})
                        # Neither the events nor the sending need wait: others, and the news that the client left, must.
                        await asyncio.sleep(0)
        finally:
            pinging.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, event: Event) -> bytes:
        """What is sent for an event; some answers must be on the disk before their end is told."""
        return b"".join(self.translator.feed(event))

    async def _keep_alive(self, send: Send) -> None:
        """A ping whenever nothing was said for long: the prompt is being read."""
        while ping := self.translator.ping():
            await asyncio.sleep(max(0.0, self._said + PING_SECONDS - monotonic()))
            if monotonic() - self._said >= PING_SECONDS:
                self._said = monotonic()
                await send({"type": "http.response.body", "body": ping, "more_body": True})


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """Do work for a client, and stop it when the client goes away.

    Raises:
        ClientDisconnect: it has gone; the work was cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
