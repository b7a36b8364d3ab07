"""The server's state: SQLite by default, PostgreSQL where replicas share it, through the same models.

What was acknowledged survives a SIGKILL: SQLite writes ahead and flushes at every commit. Opening brings the tables to
the version of this program (``migrate``).
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from cadran.errors import UserError
from cadran.library.find import models_folder
from cadran.serve.state.migrate import migrate

T = TypeVar("T")

FILE = "server.db"
BUSY = 10.0
"""Seconds that a writer waits for another; each holds the database for milliseconds."""


class Database:
    """Open for as long as the server runs.

    Its methods wait for the disk; on the event loop only ``run`` may be called.

    Args:
        url: as SQLAlchemy writes it; None for a file in the user's data folder.

    Raises:
        UserError: it cannot be opened, or a newer version of Cadran wrote it.
    """

    def __init__(self, url: str | None = None) -> None:
        self.engine = _engine(_url(url))
        self._reading = self.engine.execution_options(cadran_reading=True)
        self._threads = ThreadPoolExecutor(4, "cadran-database")
        self._closing: list[Callable[[], None]] = []
        try:
            migrate(self.engine)
        except (SQLAlchemyError, OSError) as error:
            self.engine.dispose()
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            name = self.engine.url.render_as_string(hide_password=True)
            raise UserError(f"the database {name} cannot be opened ({reason}); name another in cadran.toml") from error
        except UserError:
            self.engine.dispose()
            raise

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that may write: committed at its end, rolled back by an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads, and hinders no writer."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    async def run(self, work: Callable[[Session], T], *, write: bool = True) -> T:
        """Do work in a transaction, in a thread of the database's own.

        Args:
            work: called with the session; what it writes is on the disk when this returns.
            write: False where it only reads.
        """

        def transaction() -> T:
            with self.session() if write else self.reading() as session:
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, transaction)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have something done before the connections are given back."""
        self._closing.append(callback)

    def close(self) -> None:
        """Finish what is being written and give the connections back."""
        for callback in self._closing:
            callback()
        self._closing = []
        self._threads.shutdown(wait=True)
        self.engine.dispose()


def state_folder() -> Path:
    """Where the server keeps what is its own: ``CADRAN_HOME``, or the user's data directory."""
    return models_folder().parent


def _url(url: str | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(state_folder() / FILE))
    try:
        return make_url(url)
    except ArgumentError as error:
        raise UserError(
            f"the setting database is no URL ({url[:100]}); write sqlite:///state.db or postgresql+psycopg://HOST/NAME"
        ) from error


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url, pool_pre_ping=True, pool_size=8, hide_parameters=True)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise UserError(
                f"the database {url.drivername} needs a package that is not here ({error}); "
                "for PostgreSQL pip install 'psycopg[binary]' and write postgresql+psycopg://"
            ) from error
    if url.database in (None, "", ":memory:"):
        raise UserError("a database in memory forgets everything; name a file, as in sqlite:///state.db")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # stored answers are nobody else's business
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another database in cadran.toml") from error
    engine = create_engine(url, connect_args={"isolation_level": None, "timeout": BUSY}, hide_parameters=True)
    event.listen(engine, "connect", _durable)
    event.listen(engine, "begin", _begin)
    return engine


def _durable(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY * 1000:.0f}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    """A writer takes its lock first: one that reads and then writes would fail when another wrote in between."""
    reading = connection.get_execution_options().get("cadran_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
