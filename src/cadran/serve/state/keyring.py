"""The API keys as the server holds them in memory, never much older than those of the database."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable
from time import monotonic, time

from sqlalchemy.exc import SQLAlchemyError

from cadran.serve.state.api_key import KnownKey, key_hash, known_keys
from cadran.serve.state.database import Database

log = logging.getLogger(__name__)

FRESH = 1.0
"""Seconds after which the keys are read again; a key that was added or removed counts after that."""


class KeyRing:
    """Tells whose a key is. On the event loop; reading goes to a thread.

    Args:
        database: opens it, or gives the one that is open.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self._open = database
        self._database: Database | None = None
        self._keys: dict[str, KnownKey] = {}
        self._read = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """See that the keys are fresh; one reading for all who ask at once.

        Raises:
            SQLAlchemyError: they have never been read and cannot be.
        """
        if monotonic() - self._read < FRESH:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._load())
        # Who goes away does not stop the reading for those who wait with him.
        await asyncio.shield(self._reading)

    async def _load(self) -> None:
        try:
            if self._database is None:
                self._database = await asyncio.to_thread(self._open)
            self._keys = {key.hash: key for key in await self._database.run(known_keys, write=False)}
        except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: it is being closed
            if self._read < 0:
                raise
            log.warning("the API keys cannot be read; those that are known still count", extra={"error": str(error)})
        self._read = monotonic()

    @property
    def empty(self) -> bool:
        """Whether no key was ever made, so that none is needed."""
        return not self._keys

    def find(self, presented: Iterable[str]) -> KnownKey | None:
        """The first valid one of the keys that a client sent; in constant time for each."""
        now = time()
        for text in presented:
            hash = key_hash(text)
            key = self._keys.get(hash)
            if key is not None and hmac.compare_digest(key.hash, hash) and key.valid(now):
                return key
        return None
