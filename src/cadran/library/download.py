"""A file fetched over HTTPS: resumed where it stopped, verified, and never found half-written under its own name.

Bytes go to ``.NAME.part`` and are hashed as they come. A server that ignores the range starts the file over; one that
stops in the middle is asked again for the rest. The address and every redirection must be HTTPS; plain HTTP is allowed
to this machine alone.
Source of the rules on ranges: RFC 9110, section 14.
"""

import hashlib
import http.client
import ipaddress
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from cadran.errors import UserError
from cadran.library.progress import Progress
from cadran.library.room import refuse_without_room
from cadran.wheel import Unreachable

ATTEMPTS = 5
"""Attempts in a row that bring nothing, after which the server counts as unreachable."""
_PATIENCE = 30.0  # seconds without a byte
_PIECE = 1 << 18  # bytes
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server.

    Attributes:
        name: under which it is kept.
        url: its address.
        bytes: its size, when somebody says; ``git_blob`` needs it.
        sha256: its hash; None when only ``git_blob`` is known.
        git_blob: hash that git gives it (SHA-1 of "blob SIZE\\0" and the content).
        headers: sent to the first server only, never where it redirects.
    """

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def wanted(self) -> str | None:
        """The hash it must have; None when nobody says."""
        return self.sha256 or self.git_blob


class _RunningHash:
    """The hash of the bytes that have come so far, of the kind that is wanted of the file."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        git = self._remote.sha256 is None and self._remote.git_blob is not None
        # SHA-1 is what git has; who could forge it could as well change the listing it comes from.
        self._digest = hashlib.sha1(b"blob %d\0" % (self._remote.bytes or 0)) if git else hashlib.sha256()
        self.bytes = 0

    def update(self, piece: bytes) -> None:
        """Add bytes."""
        self._digest.update(piece)
        self.bytes += len(piece)

    def read(self, path: Path) -> "_RunningHash":
        """Begin again with the content of a file."""
        self.begin()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                self.update(piece)
        return self

    @property
    def found(self) -> str:
        """Hexadecimal digits."""
        return self._digest.hexdigest()

    @property
    def fits(self) -> bool:
        """Whether these are the bytes that were asked for."""
        right_size = self._remote.bytes is None or self.bytes == self._remote.bytes
        return right_size and self._remote.wanted in (None, self.found)


def download(remote: Remote, folder: Path, progress: Progress, pause: float = 1.0) -> Path:
    """Fetch a file, unless a copy that verifies lies there already.

    Args:
        remote: what to fetch.
        folder: where to; must exist.
        progress: told bytes done and in all.
        pause: seconds to wait before a second attempt; doubled with each further one.

    Returns:
        Its path.

    Raises:
        UserError: the address is refused, there is no such file, it has another size or hash.
        Unreachable: the server does not answer, or stops too often; what has come is kept for the next time.
    """
    check_address(remote.url)
    target, part, digest = folder / remote.name, folder / f".{remote.name}.part", _RunningHash(remote)
    if target.is_file() and digest.read(target).fits:
        progress(remote.name, digest.bytes, digest.bytes)
        return target
    resumed = _size(part) > 0
    _complete(remote, part, digest, progress, pause)
    if resumed and not digest.fits:  # what was here may be of an earlier version of the file
        part.unlink()
        _complete(remote, part, digest, progress, pause)
    if not digest.fits:
        part.unlink()
        raise UserError(
            f"{remote.name} has {digest.bytes:,} bytes with the hash {digest.found} where {remote.wanted} was asked "
            "for: it was removed; do not use it unless you know why it changed, then ask for the new one."
        )
    part.replace(target)
    return target


def _complete(remote: Remote, part: Path, digest: _RunningHash, progress: Progress, pause: float) -> None:
    """Get all of a file, in as many attempts as bring something."""
    failures, before = 0, _size(part)
    while True:
        try:
            return _receive(remote, part, digest, progress)
        except _TryAgainError as error:
            failures = 0 if _size(part) > before else failures + 1
            before = _size(part)
            if failures >= ATTEMPTS:
                raise Unreachable(
                    f"{remote.name} could not be fetched ({error}): check the network, then type the same command "
                    "again to go on where it stopped."
                ) from error
            time.sleep(pause * 2 ** max(0, failures - 1))


def check_address(url: str) -> None:
    """Refuse an address that is not HTTPS, other than on this machine, or that holds a password.

    Raises:
        UserError: it is refused.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if not host or parts.scheme not in ("https", "http") or any(ord(letter) <= 32 for letter in url):
        raise UserError(f"{url[:200]!r} is no address of a file: give one that begins with https://")
    if parts.username or parts.password:
        raise UserError(f"the address on {host} holds a name or password: leave them out")
    if parts.scheme == "http" and not _is_here(host):
        raise UserError(f"{host} is asked for over plain http, which anyone between can change: use https://")


class _TryAgainError(Exception):
    """The transfer broke off; the message says how."""


def _receive(remote: Remote, part: Path, digest: _RunningHash, progress: Progress) -> None:
    """One attempt to get what is missing of a file."""
    have = _size(part)
    if have and digest.bytes != have:
        digest.read(part)
    if have and have == remote.bytes:
        return
    with _ask(remote, have) as answer:
        if answer.status == 416 and digest.fits:  # nothing beyond what is here: it is all
            return
        if answer.status == 200:
            have = 0
        elif answer.status != 206 or _first_byte(answer) != have:
            part.unlink(missing_ok=True)
            raise _TryAgainError("the server has another part of the file than was asked for")
        if not have:
            digest.begin()
        total = _total(answer, have)
        _refuse_size(remote, total, have, part)
        with part.open("ab" if have else "wb") as file:
            try:
                _copy(answer, file, digest, remote.name, total or remote.bytes, progress)
            finally:
                file.flush()
                os.fsync(file.fileno())
    if total is not None and digest.bytes < total:
        raise _TryAgainError(f"the server stopped after {digest.bytes:,} of {total:,} bytes")


def _refuse_size(remote: Remote, total: int | None, have: int, part: Path) -> None:
    if total is None:
        return
    if remote.bytes is not None and total != remote.bytes:
        raise UserError(f"{remote.name} has {total:,} bytes where {remote.bytes:,} were announced: try another origin.")
    refuse_without_room(remote.name, total - have, part.parent)


def _copy(answer: Any, file: IO[bytes], digest: _RunningHash, name: str, total: int | None, progress: Progress) -> None:
    """Write the stream to the file until it ends."""
    progress(name, digest.bytes, total)
    while True:
        try:
            piece = answer.read(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(_words(error)) from error
        if not piece:
            return
        file.write(piece)
        digest.update(piece)
        progress(name, digest.bytes, total)
        if total is not None and digest.bytes > total:
            raise UserError(f"{name} is longer than the {total:,} bytes that were announced: try another origin.")


def _ask(remote: Remote, have: int) -> Any:
    """The answer to a request for a file from byte ``have`` on: status 200, 206 or 416."""
    request = urllib.request.Request(remote.url, headers={"Accept-Encoding": "identity", "User-Agent": "cadran"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    for name, value in remote.headers.items():
        request.add_unredirected_header(name, value)
    try:
        return _opener(remote.url).open(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return error
        error.close()
        if error.code in _BUSY:
            raise _TryAgainError(f"the server answers {error.code}") from error
        hint = "you may not read it" if error.code in (401, 403) else "check the address"
        raise UserError(f"{remote.name} cannot be fetched, the server answers {error.code}: {hint}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(_words(error)) from error
    except ValueError as error:
        raise UserError(f"the address of {remote.name} cannot be used ({error}): check it") from error


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to HTTPS, or from this machine to itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See `urllib.request.HTTPRedirectHandler`."""
        check_address(newurl)
        if req.full_url.startswith("https:") and not newurl.lower().startswith("https:"):
            raise UserError(f"{urlsplit(req.full_url).hostname} redirects to plain http: try another origin")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_CarefulRedirects(), urllib.request.HTTPSHandler(context=_trust())]
    if _is_here(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _trust() -> ssl.SSLContext:
    """The system's certificates; where Python sees none (macOS from python.org), those of `certifi`."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        try:
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _first_byte(answer: Any) -> int | None:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(answer: Any, have: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return have + int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return (str(reason) or type(error).__name__).splitlines()[0]
