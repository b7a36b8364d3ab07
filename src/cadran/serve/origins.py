"""Which web pages may call, and under which host names: CORS, and a guard against DNS rebinding.

A page anywhere may send simple requests to this machine; it must neither read an answer nor, where no key protects the
server, start anything. Source: api-contracts §0; the Fetch standard, "CORS protocol".
"""

import ipaddress
import re
from collections.abc import Sequence

_LOCAL = (
    r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?",
    r"vscode-webview://[^/]*",
    r"app://[^/]*",
)
_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_AGE = b"86400"

Headers = list[tuple[bytes, bytes]]


class Origins:
    """Pure; holds only the rules.

    Args:
        origins: web origins that may call beside those of this machine; ``*`` in one stands for anything.
        hosts: host names that requests may use beside those of this machine.
        loopback: whether only this machine reaches the server, so that a foreign host name means rebinding.
    """

    def __init__(self, origins: Sequence[str], hosts: Sequence[str], loopback: bool) -> None:
        patterns = [".*" if origin == "*" else re.escape(origin.rstrip("/")).replace(r"\*", "[^/]*")
                    for origin in origins]  # fmt: skip
        self._allowed = re.compile("|".join(f"(?:{pattern})" for pattern in (*_LOCAL, *patterns)), re.IGNORECASE)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._loopback = loopback

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may read answers."""
        return self._allowed.fullmatch(origin) is not None

    def trusts(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may start something: it may call, or it came from this very server."""
        return self.allows(origin) or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())

    def knows(self, host: str) -> bool:
        """Whether a request may name this host.

        Rebinding needs a name whose address changes, so an address is always right.
        """
        if not self._loopback or not host:
            return True
        name = _name(host).lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost") or {name, host.lower(), "*"} & self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def headers(self, origin: str) -> Headers:
        """What an answer to a page says; nothing for one that may not read it."""
        vary = (b"vary", b"Origin")
        if not self.allows(origin):
            return [vary]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"*"),
            vary,
        ]

    def preflight(self, origin: str, wanted: bytes, private: bool) -> Headers:
        """What a page is told that asks before it calls.

        Args:
            origin: of the page.
            wanted: names of the headers that it wants to send; all are allowed.
            private: whether it asks if a public page may call a private address.
        """
        if not self.allows(origin):
            return []
        names = [name.strip() for name in wanted.split(b",")]
        found = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            (b"access-control-max-age", _AGE),
        ]
        if named := b", ".join(name for name in names if _TOKEN.fullmatch(name)):
            found.append((b"access-control-allow-headers", named))
        if private:
            found.append((b"access-control-allow-private-network", b"true"))
        return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened at."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
