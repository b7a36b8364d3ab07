"""What every request passes before a route sees it: size, host, origin, key, limits. Pure ASGI, no buffering.

Also names each request (``x-request-id``) and tells those who count (``Watch``) what became of it. Nothing that a
client writes into a header can make it fail.
"""

import logging
import re
import secrets
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.computed import Computed
from cadran.serve.family import Family
from cadran.serve.origins import Headers, Origins, is_loopback
from cadran.serve.passage import Passage, enter, leave
from cadran.serve.service import Service
from cadran.serve.state.api_key import KnownKey
from cadran.serve.state.keyring import KeyRing
from cadran.serve.watch import Watch

log = logging.getLogger(__name__)

OPEN = re.compile(
    r"/|/(health|healthz|live|ready|ping|v1/health|api/version)|/(index\.html|favicon\.(ico|svg)|assets/.*)"
)
"""Paths that need no key: whether it lives, which version it is, and the web chat, which asks for a key itself."""
_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_SAFE = frozenset({"GET", "HEAD"})


class Gate:
    """ASGI middleware.

    Args:
        app: behind it.
        service: whose settings and database count.
        families: for the wording of refusals.
        watch: told of every request, and counts what each key uses.
    """

    def __init__(self, app: ASGIApp, service: Service, families: Sequence[Family], watch: Watch) -> None:
        settings = service.settings
        self._app, self._families, self._watch = app, families, watch
        self._body_limit = settings.body_limit
        self._loopback = is_loopback(settings.host)
        self._origins = Origins(settings.origins, settings.hosts, self._loopback)
        self._keys = KeyRing(lambda: service.database)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = _Asked(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        passage = Passage(asked.id or f"req_{secrets.token_hex(12)}", method, scope)
        state = scope.setdefault("state", {})
        state["request_id"], state["key"] = passage.id, None
        token = enter(passage)
        try:
            await self._serve(scope, receive, self._sender(send, passage, asked), passage, asked)
        finally:
            leave(token)
            passage.over = True
            self._watch.ended(passage)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, passage: Passage, asked: "_Asked") -> None:
        try:
            if (answer := await self._check(scope, passage, asked)) is not None:
                await send({"type": "http.response.start", "status": 204, "headers": answer})
                await send({"type": "http.response.body", "body": b""})
                return
            await self._app(scope, self._limited(receive, asked), send)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.error("a defect", exc_info=error, extra={"path": scope["path"], "id": passage.id})
            if passage.status:  # the answer has begun: only cutting it off says that it is not whole
                raise
            await self._refuse(ApiError.of(error), scope, receive, send, passage)

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send, passage: Passage) -> None:
        path = scope["path"]
        family = next((family for family in self._families if family.paths.match(path)), self._families[-1])
        answer = family.refuse(error, passage.id)
        if error.kind == "authentication":
            answer.headers["www-authenticate"] = "Bearer"
        await answer(scope, receive, send)

    async def _check(self, scope: Scope, passage: Passage, asked: "_Asked") -> Headers | None:
        """Let a request pass, or not.

        Returns:
            Headers of the answer when the gate answers itself (status 204), else None.

        Raises:
            ApiError: it is refused.
        """
        if not self._origins.knows(asked.host):
            raise ApiError(
                "permission",
                "this server is reached as localhost only; name another host name under hosts in cadran.toml",
            )
        if scope["method"] == "OPTIONS":
            return self._origins.preflight(asked.origin, asked.wanted, asked.private) if asked.origin else []
        if asked.length > self._body_limit:
            raise self._too_large()
        open = scope["method"] in _SAFE and OPEN.fullmatch(scope["path"]) is not None
        if not open:
            await self._authenticate(scope, passage, asked)
        return None

    async def _authenticate(self, scope: Scope, passage: Passage, asked: "_Asked") -> None:
        await self._keys.refresh()
        # Away from loopback nobody gets in without a key, also when the last one was removed.
        if self._keys.empty and self._loopback:
            foreign = asked.origin and not self._origins.trusts(asked.origin, asked.host)
            if foreign and scope["method"] not in _SAFE:
                raise ApiError(
                    "permission",
                    "web pages of this origin may not call; add it under origins in cadran.toml",
                )
            return
        key = self._keys.find(asked.keys)
        if key is None:
            problem = "this API key is wrong or has expired" if asked.keys else "an API key is needed"
            raise ApiError(
                "authentication", f"{problem}; send one that cadran keys add made, as Authorization: Bearer KEY"
            )
        passage.key = key
        scope["state"]["key"] = key.name
        if scope["method"] == "POST":
            self._watch.limits.admit(key)

    def _too_large(self) -> ApiError:
        return ApiError("too_large", f"the body is larger than {self._body_limit} bytes; send less")

    def _limited(self, receive: Receive, asked: "_Asked") -> Receive:
        """Reads no more of a body than is allowed, whatever its length was said to be."""
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._body_limit:
                    # What FastAPI lets through while it reads a body.
                    raise HTTPException(413, self._too_large().message)
            return message

        return limited

    def _sender(self, send: Send, passage: Passage, asked: "_Asked") -> Send:
        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                passage.status = message["status"]
                headers = list(message.get("headers", ()))
                there = {name for name, _ in headers}
                told = [
                    (b"x-request-id", passage.id.encode("ascii")),
                    (b"openai-processing-ms", f"{passage.seconds * 1000:.0f}".encode()),
                ]
                if asked.anthropic:  # its package reads this one, from routes that OpenAI's share too
                    told.append((b"request-id", passage.id.encode("ascii")))
                if passage.computed:
                    told.append((b"server-timing", server_timing(passage.computed)))
                headers += [(name, value) for name, value in told if name not in there]
                if asked.origin:
                    headers += self._origins.headers(asked.origin)
                message = {**message, "headers": headers}
            await send(message)

        return sender


def server_timing(computed: Sequence[Computed]) -> bytes:
    """The header of an answer that is known whole: milliseconds of waiting, of reading the prompt, of writing."""
    queue = max(each.queued + each.loaded for each in computed)
    prefill, decode = max(each.prefill for each in computed), max(each.decode for each in computed)
    named = (("queue", queue), ("prefill", prefill), ("decode", decode))
    return ", ".join(f"{name};dur={max(0.0, seconds) * 1000:.1f}" for name, seconds in named).encode()


class _Asked:
    """The headers of a request that count here; whatever they hold, reading them does not fail.

    Attributes:
        id: the client's own name of the request; "" for none that can be repeated.
        host, origin: as sent.
        length: bytes that are announced; 0 where it is no number.
        keys: everything that could be an API key.
        wanted, private: see ``Origins.preflight``.
        anthropic: whether a client of Anthropic's asks.
    """

    __slots__ = ("anthropic", "host", "id", "keys", "length", "origin", "private", "wanted")

    def __init__(self, scope: Scope) -> None:
        self.id = self.host = self.origin = ""
        self.length, self.wanted, self.private, self.anthropic = 0, b"", False, False
        self.keys: list[str] = []
        for name, value in scope["headers"]:
            match name.lower():
                case b"x-request-id":
                    self.id = value.decode("ascii") if _ID.fullmatch(value) else ""
                case b"host":
                    self.host = value.decode("latin-1").strip()
                case b"origin":
                    self.origin = value.decode("latin-1").strip()
                case b"content-length":
                    # More digits than that are too many bytes in any case.
                    self.length = int(value[:18]) if value.isdigit() else 0
                case b"authorization":
                    scheme, _, key = value.decode("latin-1").strip().partition(" ")
                    if scheme.lower() in ("bearer", "token") and key.strip():
                        self.keys.append(key.strip())
                case b"x-api-key" | b"api-key":
                    if key := value.decode("latin-1").strip():
                        self.keys.append(key)
                case b"anthropic-version":
                    self.anthropic = True
                case b"access-control-request-headers":
                    self.wanted = value
                case b"access-control-request-private-network":
                    self.private = value == b"true"
                case _:
                    pass


def refuse_open_door(host: str, keys: Sequence[KnownKey]) -> None:
    """See that nobody listens beyond this machine without an API key.

    Raises:
        UserError: that is what would happen.
    """
    if not is_loopback(host) and not keys:
        raise UserError(
            f"{host} can be reached from other machines and there is no API key; make one with cadran keys add NAME"
        )
