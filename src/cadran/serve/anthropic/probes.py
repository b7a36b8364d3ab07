"""What Anthropic's clients ask beside messages: answered quietly, so that they go on. Source: api-contracts 5.4."""

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter(include_in_schema=False)


@router.head("/")
async def alive() -> Response:
    """Whether anybody is there."""
    return Response()


@router.api_route("/api/event_logging", methods=["GET", "HEAD", "POST"])
@router.api_route("/api/event_logging/{rest:path}", methods=["GET", "HEAD", "POST"])
async def event_logging() -> Response:
    """What a client tells of itself; nothing of it is read or kept."""
    return Response(status_code=204)
