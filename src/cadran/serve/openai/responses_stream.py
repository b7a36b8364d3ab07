"""A response as it is streamed: stored before its end is told, and stored as cancelled when the client goes away.

What is made in the background, or was streamed before, is told from any place on and as often as somebody asks.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadran.serve.answering import StreamAnswer, sse
from cadran.serve.events import Event
from cadran.serve.exchange import Exchange
from cadran.serve.followed import FollowedStream
from cadran.serve.openai.responses_answer import Wire
from cadran.serve.openai.responses_live import LiveResponse

MEDIA_TYPE = "text/event-stream"
AT_ONCE = 200
"""Events that are written in one piece to somebody who is far behind, so that others have their turn."""


class ResponseTranslator:
    """A ``Translator``.

    Args:
        live: the response.
    """

    media_type = MEDIA_TYPE

    def __init__(self, live: LiveResponse) -> None:
        self._live = live

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        return (sse(wire, wire["type"]) for wire in self._live.feed(event))

    def ping(self) -> bytes:
        """A comment."""
        return b": ping\n\n"


class ResponseStream(StreamAnswer):
    """Streams a response that ends with its client.

    Args:
        live: the response.
        exchange: that computes it.
    """

    def __init__(self, live: LiveResponse, exchange: Exchange) -> None:
        super().__init__(exchange, ResponseTranslator(live))
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._live.conclude()

    async def _pieces(self, event: Event) -> bytes:
        pieces = list(self.translator.feed(event))
        if pieces and self._live.events.over and (last := await self._live.conclude()) is not None:
            pieces[-1] = sse(last, last["type"])
        return b"".join(pieces)


def follow(live: LiveResponse, after: int | None) -> Response:
    """A stream of a response under way, which goes on when this client goes away.

    Args:
        live: the response; it is stored.
        after: as in ``replay``.
    """

    def frames(position: int) -> Iterator[bytes]:
        return (sse(wire, wire["type"]) for wire in islice(live.told_from(position), AT_ONCE))

    return FollowedStream(live, frames, 0 if after is None else max(0, after + 1))


def replay(events: Sequence[Wire], after: int | None) -> Response:
    """A stream that was told before.

    Args:
        events: all of it.
        after: only those with a higher sequence number.
    """
    told = [event for event in events if after is None or event["sequence_number"] > after]
    body = b"".join(sse(event, event["type"]) for event in told)
    return Response(body, headers={"content-type": MEDIA_TYPE, "cache-control": "no-cache"})
