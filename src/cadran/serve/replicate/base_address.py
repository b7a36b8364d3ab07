"""What the addresses in an answer begin with: the server as the client, or a proxy before it, has called it."""

import re

from fastapi import Request

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


def base_address(request: Request) -> str:
    """Scheme and host without a slash at the end. Source: api-contracts 6.2."""
    scheme = _first(request, "x-forwarded-proto").lower()
    if scheme not in ("http", "https"):
        scheme = request.url.scheme
    for header in ("x-forwarded-host", "host"):
        host = _first(request, header)
        if _HOST.fullmatch(host):
            return f"{scheme}://{host}"
    return str(request.base_url).rstrip("/")


def _first(request: Request, header: str) -> str:
    """The value that the proxy nearest to the client has written."""
    return request.headers.get(header, "").partition(",")[0].strip()
