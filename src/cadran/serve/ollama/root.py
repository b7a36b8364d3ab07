"""What programs look for at ``/`` to see whether Ollama is there; browsers want a page."""

from fastapi import Request
from starlette.responses import PlainTextResponse, Response

RUNNING = "Ollama is running"


def ollama_root(request: Request) -> Response | None:
    """The answer to a program, None for a browser: whoever accepts HTML."""
    if "text/html" in request.headers.get("accept", "").lower():
        return None
    return PlainTextResponse(RUNNING)
