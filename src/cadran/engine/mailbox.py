"""The way from the compute thread to one reader, which waits as a thread or as an asyncio task.

Built on ``queue.SimpleQueue``, whose ``put`` may be called from a finalizer at any point of any thread.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One reader, any number of writers."""

    def __init__(self) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._wake: Callable[[], object] | None = None

    def put(self, item: T) -> None:
        """Leave something; never waits."""
        self._items.put(item)
        if (wake := self._wake) is not None:
            with suppress(RuntimeError):  # the reader's event loop is closed: nobody reads any more
                wake()

    def get(self) -> T:
        """The next item; waits for it."""
        return self._items.get()

    async def wait(self) -> T:
        """The next item, without holding the event loop up."""
        import asyncio  # 40 ms that a command has no use for

        loop = asyncio.get_running_loop()
        while True:
            arrived = asyncio.Event()
            # Set before looking, so that what arrives between the look and the wait is not slept through.
            self._wake = partial(loop.call_soon_threadsafe, arrived.set)
            with suppress(Empty):
                return self._items.get_nowait()
            await arrived.wait()
