"""Routes that read every body as JSON, whatever type it claims: ``curl -d`` says that it sends a form."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from starlette.responses import Response

from cadran.serve.large_body import BodyRoute


class JsonRoute(BodyRoute):
    """A route whose bodies are JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI calls it."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            headers: list[Any] = [item for item in request.scope["headers"] if item[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handle(Request(scope, request.receive))

        return handle_json
