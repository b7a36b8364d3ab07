"""Large bodies are read in a thread, entry by entry: whoever asks meanwhile, ``/health`` above all, does not wait.

Five megabytes in one message are read in no time; in 50,000 messages they take a second, most of it in one call of
pydantic's that lets no other thread run. Hence ``piecewise``.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

T = TypeVar("T")

LARGE = 256 << 10
"""Bytes from which a body is read in a thread; less is read in about 30 ms at most."""
MANY = 100
"""Entries from which a list is validated entry by entry."""


class BodyRoute(APIRoute):
    """A route whose large bodies are read in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI calls it."""
        handle, field = super().get_route_handler(), self.body_field
        if field is None or self._embed_body_fields:
            return handle

        def read(body: bytes) -> Any:
            value, errors = field.validate(json.loads(body), {}, loc=("body",))
            if errors:
                raise _InvalidBody(errors)
            return value

        async def handle_large(request: Request) -> Response:
            try:
                return await handle(_LargeRequest(request, read))
            except _InvalidBody as error:
                raise RequestValidationError(error.errors) from error

        return handle_large


class _LargeRequest(Request):
    """Its ``json`` is what the route wants already, where the body is large: FastAPI leaves that as it is."""

    def __init__(self, request: Request, read: Callable[[bytes], Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._read_body = read

    async def json(self) -> Any:
        body = await self.body()
        return await (asyncio.to_thread(self._read_body, body) if len(body) >= LARGE else super().json())


class _InvalidBody(HTTPException):
    """Of the one kind of exception that FastAPI lets through while it reads a body."""

    def __init__(self, errors: Any) -> None:
        super().__init__(400)
        self.errors = errors


async def aside(request: Request, work: Callable[[], T]) -> T:
    """Do work on what a request brought: in a thread where its body is large.

    Args:
        request: of the route.
        work: what to do.
    """
    return await asyncio.to_thread(work) if len(await request.body()) >= LARGE else work()


def piecewise(model: type[BaseModel]) -> BeforeValidator:
    """Validate the entries of a long list one by one, so that other threads have their turn between them.

    The list's own validation comes after it and finds them done, or the first wrong one at its place.

    Args:
        model: of an entry.
    """

    def validate(entries: Any) -> Any:
        if not isinstance(entries, list) or len(entries) < MANY:
            return entries
        done: list[Any] = []
        for entry in entries:
            try:
                done.append(model.model_validate(entry))
            except ValidationError:
                return [*done, entry]
        return done

    return BeforeValidator(validate)
