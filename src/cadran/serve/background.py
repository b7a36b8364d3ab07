"""Answers that are computed apart from the connections that asked for them, until they are over or the server stops.

They wait for their place like every request. Whoever keeps them (predictions, stored responses) knows them by id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from cadran.serve.api_error import ApiError
from cadran.serve.events import Event
from cadran.serve.exchange import Exchange
from cadran.serve.service import Service

log = logging.getLogger(__name__)

REFUSAL_SECONDS = 0.5
"""How long whoever begins one in the background waits for a refusal, which then has its own status."""


class Work(Protocol):
    """What follows such an answer."""

    @property
    def bytes(self) -> int:
        """Memory of its texts, roughly."""
        ...

    def feed(self, event: Event) -> object:
        """Take an event of the exchange."""
        ...

    def fail(self, error: ApiError) -> None:
        """End it with an error, unless it is over."""
        ...

    def cancel(self) -> None:
        """End it at somebody's wish, unless it is over."""
        ...


class Background:
    """Runs answers, each in a task of its own. On the event loop.

    Args:
        service: that computes them; ends them when it ends.
        name: what they are called, in the plural.
        most: that may be under way.
        most_bytes: memory that the texts of those under way may take, roughly.
    """

    def __init__(self, service: Service, name: str, *, most: int, most_bytes: int) -> None:
        self._service, self._name, self._most, self._most_bytes = service, name, most, most_bytes
        self._tasks: dict[Work, asyncio.Task[None]] = {}
        service.endings.append(self.end)

    def start(
        self, work: Work, begin: Callable[[], Awaitable[Exchange]], *, ended: Callable[[], object],
        lifetime: float | None = None,
    ) -> None:  # fmt: skip
        """Begin to compute.

        Args:
            work: is told what comes of it, in any case that it is over.
            begin: has the request admitted.
            ended: called once, after the end.
            lifetime: seconds after which it is cancelled.

        Raises:
            ApiError: those under way take all of the memory.
        """
        if len(self._tasks) >= self._most or sum(other.bytes for other in self._tasks) + work.bytes > self._most_bytes:
            raise ApiError("overloaded", f"too many {self._name} are under way; try again later", retry_after=5)
        task = self._tasks[work] = asyncio.create_task(self._run(work, begin, lifetime))

        def over(_: object) -> None:
            del self._tasks[work]
            work.cancel()  # where nothing else has ended it
            ended()

        task.add_done_callback(over)

    async def _run(self, work: Work, begin: Callable[[], Awaitable[Exchange]], lifetime: float | None) -> None:
        deadline = self._service.settings.deadline
        try:
            async with asyncio.timeout(min(filter(None, (lifetime, deadline)), default=None)):
                async with await begin() as exchange, aclosing(aiter(exchange)) as events:
                    async for event in events:
                        work.feed(event)
        except TimeoutError:
            if deadline is not None and (lifetime is None or deadline < lifetime):
                work.fail(ApiError("timeout", f"it was not done after {deadline:g} s; ask for fewer tokens"))
        except ApiError as error:
            work.fail(error)
        except Exception:
            log.exception("an answer in the background failed", extra={"of": self._name})
            work.fail(ApiError("internal", "the server failed on this request; its log says why"))

    async def cancel(self, work: Work) -> None:
        """End it; when this returns its place is free. One that is over stays as it is."""
        work.cancel()
        if (task := self._tasks.get(work)) is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def end(self) -> None:
        """End all that are under way with an error: the server stops."""
        tasks = list(self._tasks.values())
        for work, task in self._tasks.items():
            work.fail(ApiError("draining", "the server has stopped before the end; ask again", retry_after=5))
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
