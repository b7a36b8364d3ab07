"""Who is computed, who waits and who is turned away. On the event loop, first come first served."""

import asyncio
from collections import deque
from contextlib import suppress
from time import monotonic

from cadran.serve.api_error import ApiError


class Admission:
    """A number of places and a bounded queue before them.

    Args:
        parallel: requests that are computed together.
        queue: requests that may wait.

    Attributes:
        running: requests that have a place.
        rejected: requests that were turned away because the queue was full.
    """

    def __init__(self, parallel: int, queue: int) -> None:
        self._parallel, self._queue = parallel, queue
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self.running = self.rejected = 0

    @property
    def waiting(self) -> int:
        """Requests without a place yet."""
        return len(self._waiters)

    async def enter(self) -> float:
        """Wait for a place.

        Returns:
            Seconds of waiting.

        Raises:
            ApiError: too many wait already, or the server is about to stop.
        """
        if self.draining:
            raise _stopping()
        if self.running < self._parallel and not self._waiters:
            self._begin()
            return 0.0
        if len(self._waiters) >= self._queue:
            self.rejected += 1
            raise ApiError("overloaded", f"{len(self._waiters)} requests wait already; try again later", retry_after=2)
        begun = monotonic()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._idle.clear()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():  # given a place at that moment
                self.leave()
            else:
                with suppress(ValueError):  # or somebody who left has just passed over it
                    self._waiters.remove(waiter)
                self._settle()
            raise
        return monotonic() - begun

    def leave(self) -> None:
        """A request is over; the next one gets its place."""
        self.running -= 1
        while self._waiters and self.running < self._parallel:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._begin()
                waiter.set_result(None)
        self._settle()

    def _begin(self) -> None:
        self.running += 1
        self._idle.clear()

    def _settle(self) -> None:
        if not self.running and not self._waiters:
            self._idle.set()

    def drain(self) -> None:
        """Take no more requests; those that wait are still served."""
        self.draining = True

    async def idle(self) -> None:
        """Wait until no request is under way, or until ``give_up``."""
        await self._idle.wait()

    def give_up(self) -> None:
        """Wait for nobody any more, and refuse those that wait for a place and those that come."""
        self.draining = True  # else who comes before ``drain`` would be waited for after all
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_stopping())
        self._idle.set()


def _stopping() -> ApiError:
    return ApiError("draining", "the server is about to stop; ask another, or try again later", retry_after=5)
