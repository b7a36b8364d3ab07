"""A model being pulled in a thread of its own, told line by line; who stops reading stops it.

What has come stays, so that the next attempt goes on with it.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from typing import Any

from cadran.errors import UserError
from cadran.library.origin import Origin
from cadran.library.pull import pull
from cadran.serve.api_error import ApiError

log = logging.getLogger(__name__)


class Pulling:
    """One pull; begun by reading ``lines``.

    Args:
        origin: where from.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._latest: dict[str, Any] | None = None
        self._failure: BaseException | None = None
        self._over = self._left = False

    async def lines(self) -> AsyncGenerator[dict[str, Any]]:
        """What there is to tell, the latest when there was more than could be read; at last ``success``.

        Raises:
            ApiError: it failed.
        """
        thread = threading.Thread(target=self._work, name="pull", daemon=True)
        yield {"status": "pulling manifest"}
        try:
            thread.start()
            while not self._over:
                await self._news.wait()
                self._news.clear()
                if (line := self._latest) is not None:
                    self._latest = None
                    yield line
        finally:
            self._left = True
        if isinstance(self._failure, UserError):
            raise ApiError("invalid", str(self._failure)) from self._failure
        if self._failure is not None:
            log.error("a pull failed", exc_info=self._failure)
            raise ApiError("internal", "the model could not be pulled; the server's log says why") from self._failure
        yield {"status": "writing manifest"}
        yield {"status": "success"}

    def _work(self) -> None:
        try:
            pull(self._origin, progress=self._progress)
        except BaseException as error:
            self._failure = error
        self._over = True
        self._tell()

    def _progress(self, doing: str, done: int, total: int | None) -> None:
        if self._left:
            raise _LeftError
        if doing == "checking":
            self._latest = {"status": "verifying sha256 digest"}
        else:
            amounts = {"completed": done} if total is None else {"total": total, "completed": done}
            self._latest = {"status": f"pulling {doing}", "digest": doing, **amounts}
        self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the server has ended meanwhile
            self._left = True


class _LeftError(Exception):
    """Nobody reads any more."""
