"""A prediction as server-sent events, from any place on and as often as somebody asks. Source: api-contracts 6.3.

Every event has an id, since clients drop those that have none; ``Last-Event-ID`` goes on behind it.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadran.serve.answering import PING_SECONDS, sse, until_gone
from cadran.serve.replicate.output import streamable
from cadran.serve.replicate.prediction import Prediction

PING = b": ping\n\n"


def frames(prediction: Prediction, position: int) -> Iterator[bytes]:
    """The bytes of the events from a position on, as far as they have come."""
    moment = int(prediction.created * 1000)
    for number, told in enumerate(prediction.told[position:], start=position):
        yield sse(streamable(told.data), told.event, f"{moment}:{number}")


def position_after(prediction: Prediction, last: str | None) -> int:
    """Where a client goes on that has seen the event of this id; at the beginning when it is none of this prediction's.

    Args:
        prediction: that is streamed.
        last: what the client says in ``Last-Event-ID``.
    """
    found = re.fullmatch(r"(\d{1,20}):(\d{1,9})", last or "", re.ASCII)
    if found is None or int(found[1]) != int(prediction.created * 1000):
        return 0
    return min(int(found[2]) + 1, len(prediction.told))


class PredictionStream(Response):
    """Follows a prediction to its end. The prediction goes on when the client goes away.

    Args:
        prediction: that is streamed.
        position: of its first event.
    """

    def __init__(self, prediction: Prediction, position: int) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._prediction, self._position = prediction, position
        # Exactly the bare type: the client compares it.
        self.headers["content-type"] = "text/event-stream"
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        with suppress(ClientDisconnect, OSError):
            await until_gone(Request(scope, receive), self._write(send))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        prediction, position = self._prediction, self._position
        while True:
            pieces = list(frames(prediction, position))
            position += len(pieces)
            if pieces:
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            if position < len(prediction.told):
                continue
            if prediction.over:
                break
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await prediction.news()
            except TimeoutError:
                await send({"type": "http.response.body", "body": PING, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
