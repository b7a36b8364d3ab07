"""A response as it is streamed: stored before its end is told, and stored as cancelled when the client goes away."""

from collections.abc import Iterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadran.serve.answering import StreamAnswer, sse
from cadran.serve.events import Event
from cadran.serve.openai.responses_answer import Wire
from cadran.serve.openai.responses_desk import LiveResponse

MEDIA_TYPE = "text/event-stream"


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
    """Streams a response.

    Args:
        live: the response.
    """

    def __init__(self, live: LiveResponse) -> None:
        super().__init__(live.exchange, ResponseTranslator(live))
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


def replay(events: Sequence[Wire], after: int | None) -> Response:
    """A stream that was told before.

    Args:
        events: all of it.
        after: only those with a higher sequence number.
    """
    told = [event for event in events if after is None or event["sequence_number"] > after]
    body = b"".join(sse(event, event["type"]) for event in told)
    return Response(body, headers={"content-type": MEDIA_TYPE, "cache-control": "no-cache"})
