"""Who writes the accounts: a thread of its own, in batches, so that no answer waits for the disk."""

import logging
import threading
import time
from queue import Empty, Full, Queue
from typing import Any

from sqlalchemy import delete, insert
from sqlalchemy.exc import SQLAlchemyError

from cadran.serve.state.database import Database
from cadran.serve.state.usage import Usage

log = logging.getLogger(__name__)

EVERY = 0.5
"""Seconds between two writes, so that a SIGKILL costs less than the accounts of one second."""
MOST = 100_000
"""Rows that wait while the database cannot be written; later ones are lost, which the log says."""
SWEEP = 3600.0
DAY = 86400.0

Row = dict[str, Any]


class Ledger:
    """Takes rows of ``Usage`` at once and writes them soon.

    Args:
        database: closed after this; its ``close`` writes what is left.
        days: for which accounts are kept; None for ever.
    """

    def __init__(self, database: Database, days: int | None = None) -> None:
        self._database, self._days = database, days
        self._rows: Queue[Row | None] = Queue(MOST)
        self._thread = threading.Thread(target=self._run, name="cadran-ledger", daemon=True)
        self._lost, self._swept = 0, 0.0
        self._thread.start()
        database.on_close(self.close)

    def put(self, row: Row) -> None:
        """Account for what was computed. Never waits."""
        try:
            self._rows.put_nowait(row)
        except Full:
            self._lost += 1
            if self._lost & (self._lost - 1) == 0:  # said at 1, 2, 4, 8, ...
                log.error("accounts are lost: the database cannot be written", extra={"lost": self._lost})

    def close(self) -> None:
        """Write what is left and end; waits for it."""
        if self._thread.is_alive():
            self._rows.put(None)
            self._thread.join(10)

    def _run(self) -> None:
        batch: list[Row] = []
        going = True
        while going or batch:
            going = self._gather(batch) and going
            if batch:
                try:
                    self._write(batch)
                    batch = []
                except SQLAlchemyError as error:
                    log.warning("the accounts cannot be written now", extra={"error": str(error)})
                    if not going:
                        log.error("accounts are lost: the database cannot be written", extra={"lost": len(batch)})
                        return
                    time.sleep(EVERY)

    def _gather(self, batch: list[Row]) -> bool:
        """Wait for a row and for those that come soon after; False at the end."""
        until = time.monotonic() + EVERY
        row = None if batch else self._rows.get()
        if not batch and row is None:
            return False
        while True:
            if row is not None:
                batch.append(row)
            left = until - time.monotonic()
            try:
                row = self._rows.get(timeout=left) if left > 0 else self._rows.get_nowait()
            except Empty:
                return True
            if row is None:
                return False
            if len(batch) >= 5000:
                batch.append(row)
                return True

    def _write(self, batch: list[Row]) -> None:
        with self._database.session() as session:
            session.execute(insert(Usage), batch)
            now = time.time()
            if self._days is not None and now - self._swept > SWEEP:
                session.execute(delete(Usage).where(Usage.at < now - self._days * DAY))
                self._swept = now
