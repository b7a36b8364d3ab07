"""Listening: the sockets, the signals and the orderly end.

The first SIGTERM or SIGINT lets the requests under way finish (``grace`` seconds) while new ones are refused; the
second ends at once.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from types import FrameType

import uvicorn

from cadran.errors import UserError
from cadran.serve.application import make_application
from cadran.serve.gate import refuse_open_door
from cadran.serve.service import Service
from cadran.serve.state.api_key import known_keys

log = logging.getLogger(__name__)

IDLE_SECONDS = 75
"""How long an unused connection is kept. Clients keep theirs 5 s (httpx) to 60 s: a server that is first to close one
cuts a request that is on its way."""

Listening = Callable[[list[str]], None]


class Server:
    """Serves a service until it is told to stop.

    Args:
        service: what is served.
        listening: told the addresses, once requests can come.
    """

    def __init__(self, service: Service, listening: Listening | None = None) -> None:
        self.service, self._listening = service, listening
        self._stopping = asyncio.Event()
        self._server: uvicorn.Server | None = None

    def sockets(self) -> list[socket.socket]:
        """Open sockets for every address of the settings.

        Raises:
            UserError: an address is taken or not this machine's, or others reach it and there is no API key.
        """
        settings = self.service.settings
        with self.service.database.reading() as session:
            refuse_open_door(settings.host, known_keys(session))
        ports = [settings.port] + ([settings.ollama_port] if settings.ollama_port is not None else [])
        found: list[socket.socket] = []
        for port in ports:
            try:
                opened = socket.create_server((settings.host, port), backlog=2048, family=_family(settings.host))
            except OSError as error:
                for other in found:
                    other.close()
                reason = error.strerror or error
                raise UserError(
                    f"{settings.host}:{port} cannot be listened at ({reason}); take another with --port or --host"
                ) from error
            opened.set_inheritable(True)
            found.append(opened)
        return found

    def run(self) -> None:
        """Serve until a signal; returns when everything is closed."""
        asyncio.run(self.serve(self.sockets()))

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serve on open sockets until ``stop``."""
        config = uvicorn.Config(
            make_application(self.service),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        self._server = server = _Quiet(config)
        self._catch_signals()
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if self._listening is not None and server.started:
            self._listening(list(addresses(sockets)))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await self.service.drain(self.service.settings.grace)
        server.should_exit = True
        await serving
        await self.service.close()

    def stop(self) -> None:
        """Begin the orderly end; called again, end at once. From the event loop's thread."""
        if self._stopping.is_set() and self._server is not None:
            self._server.force_exit = self._server.should_exit = True
            self.service.admission.give_up()
        self._stopping.set()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def caught(_: int, __: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.stop)

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, caught)
        except ValueError:  # not the main thread: whoever runs it there stops it
            log.debug("signals are not caught")


class _Quiet(uvicorn.Server):
    """Leaves the signals to us."""

    def install_signal_handlers(self) -> None:
        """Not here."""

    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Not here either."""
        from contextlib import nullcontext

        return nullcontext()


def addresses(sockets: Iterable[socket.socket]) -> Iterable[str]:
    """As URLs."""
    for opened in sockets:
        host, port = opened.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
