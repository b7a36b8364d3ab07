"""The web chat as files: built by ``web/build.py`` into ``web_assets``, served as they are.

The page may load nothing but what comes from here and may not be framed. Its address is also that of other answers
(Ollama's clients ask for ``/``), hence only browsers get it: those who accept HTML.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

ASSETS = Path(__file__).parent / "web_assets"

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "font-src 'self'", "img-src 'self'",
        "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
"""Scripts, styles, fonts and requests of this origin only, and nothing inline."""

_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

_ABSENT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Cadran</title>
<p>The server works; its web chat has not been built. In the folder of Cadran's sources, type:</p>
<pre>python web/build.py</pre>
<p>and load this page again; a copy that is installed elsewhere is then installed anew. Without the page, programs ask
<code>/v1/chat/completions</code>.</p>
</html>
"""


class _BrowserRoute(Route):
    """Is not there for clients that do not accept HTML: the next route of the same path answers them."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See ``Route``."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not _accepts_html(scope):
            return Match.NONE, {}
        return super().matches(scope)


def web_routes(folder: Path | None = None) -> Sequence[BaseRoute]:
    """``/`` for browsers, and ``/assets/...``.

    Args:
        folder: of the built page; None takes the package's own. It may appear or change while the server runs.

    Returns:
        Routes that go before those of the APIs.
    """
    root = folder or ASSETS

    async def page(request: Request) -> Response:
        index = root / "index.html"
        headers = {**_HEADERS, "cache-control": "no-cache", "vary": "accept"}
        if not index.is_file():
            return HTMLResponse(_ABSENT, status_code=404, headers=headers)
        return FileResponse(index, headers=headers, media_type="text/html; charset=utf-8")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        file = root / "assets" / name
        type = CONTENT_TYPES.get(file.suffix)
        if type is None or not _NAME.fullmatch(name) or not file.is_file():
            return Response(
                "there is no such file of the web chat; load the page again\n", 404, media_type="text/plain"
            )
        # Vite writes a hash of the content into each name: what a name stands for never changes.
        headers = {**_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return FileResponse(file, headers=headers, media_type=type)

    return [
        _BrowserRoute("/", page, methods=["GET"], include_in_schema=False),
        Route("/assets/{name}", asset, methods=["GET"], include_in_schema=False),
    ]


def _accepts_html(scope: Scope) -> bool:
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return b"text/html" in accepted.lower()
