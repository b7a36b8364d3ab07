"""The HTTP application: every family's routes over one service."""

import logging
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from cadran import __version__
from cadran.serve.api_error import ApiError, Kind
from cadran.serve.families import families
from cadran.serve.family import Family
from cadran.serve.gate import Gate
from cadran.serve.service import Service
from cadran.serve.watch import Watch
from cadran.serve.web import web_routes

log = logging.getLogger(__name__)

_MEMBER = re.compile(r"str|int|float|bool|constrained-.+|(list|dict|tuple|function-.+)\[.+")
"""What a complaint calls the members of a union; no request has fields of these names."""

_BY_STATUS: dict[int, Kind] = {400: "invalid", 401: "authentication", 403: "permission", 404: "not_found",
                               405: "invalid", 409: "conflict", 413: "too_large", 429: "limited"}  # fmt: skip


def make_application(service: Service) -> FastAPI:
    """The application over a service. Whoever runs it drains the service at the end (``server``)."""

    app = FastAPI(
        title="Cadran",
        version=__version__,
        description="Language models on this machine, behind the interfaces that programs already speak.",
        docs_url=None,
        redoc_url=None,
        strict_content_type=False,
    )
    app.state.service = service
    known = families()
    for family in known:
        app.include_router(family.router)
    if service.settings.web:
        app.router.routes[:0] = web_routes()

    def refused(request: Request, error: ApiError) -> Response:
        return family_of(known, request.url.path).refuse(error, request_id(request))

    @app.exception_handler(ApiError)
    async def _api_error(request: Request, error: ApiError) -> Response:
        return refused(request, error)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return refused(request, validation_error(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "invalid")
        said = error.detail
        if error.status_code == 404:
            said = f"there is nothing at {request.url.path}; /openapi.json lists what there is"
        elif error.status_code == 405:
            known = (error.headers or {}).get("Allow", "the methods that /openapi.json lists")
            said = f"{request.url.path} knows no {request.method}; use {known}"
        answer = refused(request, ApiError(kind, said))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ClientDisconnect)
    async def _left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> Response:
        log.error("a defect", exc_info=error, extra={"path": request.url.path})
        return refused(request, ApiError("internal", "the server failed on this request; its log says why"))

    watch = Watch(service)
    app.state.metrics = watch.metrics
    app.add_middleware(Gate, service=service, families=known, watch=watch)
    return app


def request_id(request: Request) -> str:
    """The request's id: the client's own, or one made by the gate."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def family_of(families: Sequence[Family], path: str) -> Family:
    """Whose path it is: the first family's that claims it; the last one's where it is nobody's."""
    return next((family for family in families if family.paths.match(path)), families[-1])


def validation_error(error: RequestValidationError) -> ApiError:
    """The first complaint as one sentence that names the field."""
    problems: Sequence[Any] = error.errors()
    first = problems[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query", "header")]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ApiError("invalid", f"the body is not JSON ({reason}); repair it")
    field = ".".join(takewhile(lambda part: not _MEMBER.fullmatch(part), place))
    return ApiError("invalid", f"{field or 'the body'}: {first['msg'].lower()}", param=field or None)
