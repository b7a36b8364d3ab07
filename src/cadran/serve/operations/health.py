"""Whether the server lives, takes requests, and how busy it is. None of it waits for anything.

``/health`` is 503 only while the very first model is being opened and none is there to answer: models are opened on
demand, so a server without an open model is well. ``/live`` says that the process answers; ``/ready`` that it takes
requests.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON
from cadran.serve.family import service_of

router = APIRouter(tags=["Operations"])


@router.get("/health")
@router.head("/health", include_in_schema=False)
@router.get("/healthz", include_in_schema=False)
@router.get("/v1/health", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
async def health(request: Request) -> Response:
    """Whether a request would be answered soon."""
    shelf = service_of(request).shelf
    if shelf.loading and not shelf.served:
        return _unavailable("Loading model")
    return JSON({"status": "ok"})


@router.get("/live")
async def live() -> Response:
    """Whether the process answers at all."""
    return JSON({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether it takes requests; not while it is about to stop."""
    if service_of(request).admission.draining:
        return _unavailable("Stopping")
    return JSON({"status": "ok"})


@router.get("/v1/load")
@router.get("/load", include_in_schema=False)
async def load(request: Request) -> Response:
    """How many requests are under way, and with which models."""
    service = service_of(request)
    admission = service.admission
    return JSON(
        {
            "server_load": admission.running + admission.waiting,
            "running": admission.running,
            "waiting": admission.waiting,
            "parallel": service.settings.parallel,
            "queue": service.settings.queue,
            "draining": admission.draining,
            "models": [
                {"name": served.known.name, "running": served.users} for served in service.shelf.served
            ],
        }
    )  # fmt: skip


def _unavailable(message: str) -> Response:
    error = {"code": 503, "message": message, "type": "unavailable_error"}
    return JSON({"error": error}, status_code=503, headers={"retry-after": "5"})
