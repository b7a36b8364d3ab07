"""A server in a thread of the test process, on a free port, with the real engine behind it."""

import asyncio
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel
from cadran.serve.server import Server, addresses
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings


class LiveServer:
    """Serves from its making until ``close``.

    Attributes:
        url: without a slash at the end.
        service: behind it, to look into; on the loop's thread only (``call``).
    """

    def __init__(self, open: Callable[[KnownModel], Engine] | None = None, **settings: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        state = {"database": f"sqlite:///{self._folder.name}/state.db"}  # never the one of this machine's user
        self.service = Service(ServeSettings(port=0, **{"grace": 5, **state, **settings}), open)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._server: Server | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._server = server = Server(self.service, lambda _: self._ready.set())
        sockets = server.sockets()
        self.url = next(iter(addresses(sockets)))
        await server.serve(sockets)

    def call(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns when it is called on the loop's thread."""

        async def wrapped() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(60)

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until no request is under way."""

        async def idle() -> None:
            await asyncio.wait_for(self.service.admission.idle(), seconds)

        asyncio.run_coroutine_threadsafe(idle(), self._loop).result(seconds + 5)

    def stop(self) -> None:
        """Begin the orderly end, as SIGTERM does."""
        assert self._server is not None
        self._loop.call_soon_threadsafe(self._server.stop)

    def join(self, seconds: float = 60.0) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop and wait."""
        if self._thread.is_alive():
            self.stop()
            assert self.join(), "the server did not stop"
        self._folder.cleanup()


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)


@contextmanager
def asking(live: LiveServer, path: str, body: dict[str, Any], **headers: str) -> Iterator[socket.socket]:
    """A request that was sent whole over a connection of its own, which is closed at the end."""
    url, content = httpx.URL(live.url), json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that a server may listen at and that nobody else is given meanwhile."""
    with socket.socket() as held:  # bound and not listening, so that whoever names the port still gets it
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
