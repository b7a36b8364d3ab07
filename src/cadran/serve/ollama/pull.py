"""``POST /api/pull``: fetch a model on to the server's machine. Source: api-contracts 7."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from cadran.errors import UserError
from cadran.library.origin import Origin, parse_origin
from cadran.serve.answering import JSON, ndjson, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.family import service_of
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.ollama.errors import error_body
from cadran.serve.ollama.pulling import Pulling
from cadran.serve.service import Service

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

AT_ONCE = 2
"""Pulls that go on together; each has a thread, and they share a disk."""


class PullRequest(OpenBody):
    """The body."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


@router.post("/api/pull")
async def pull(request: Request, body: PullRequest) -> Response:
    """Fetch a model, by what ``cadran pull`` would be given; those that are served already are there."""
    service, name = service_of(request), (body.model or body.name or "").strip()
    if not name:
        raise ApiError("invalid", "no model is named; give its name as model", param="model")
    origin = None if _is_served(service, name) else _origin(service, name)
    running: set[object] = _running(request)
    if origin is not None and len(running) >= AT_ONCE:
        raise ApiError("overloaded", f"{AT_ONCE} models are being pulled already; try again later", retry_after=10)
    lines = _lines(service, origin, running)
    if body.stream is False:
        return JSON(await until_gone(request, _last(lines)))
    return StreamingResponse(_told(lines), media_type="application/x-ndjson")


def _is_served(service: Service, name: str) -> bool:
    try:
        service.shelf.resolve(name)
    except ApiError:
        return False
    return True


def _origin(service: Service, name: str) -> Origin:
    if not _is_loopback(service.settings.host):
        raise ApiError(
            "permission", "only a server for this machine alone pulls models; type cadran pull on it instead"
        )
    try:
        return parse_origin(name.removesuffix(":latest"))
    except UserError as error:
        raise ApiError("not_found", str(error), param="model") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _running(request: Request) -> set[object]:
    """The pulls of this application that go on."""
    state = request.app.state
    if not hasattr(state, "pulls"):
        state.pulls = set()
    running: set[object] = state.pulls
    return running


async def _lines(service: Service, origin: Origin | None, running: set[object]) -> AsyncGenerator[dict[str, Any]]:
    if origin is None:
        yield {"status": "pulling manifest"}
        yield {"status": "success"}
        return
    pulling = Pulling(origin)
    running.add(pulling)
    try:
        async with aclosing(pulling.lines()) as lines:
            async for line in lines:
                if line["status"] == "success":
                    service.shelf.refresh()
                yield line
    finally:
        running.discard(pulling)


async def _told(lines: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for line in lines:
            yield ndjson(line)
    except ApiError as error:
        yield ndjson(error_body(error))


async def _last(lines: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for line in lines:
        last = line
    return last
