"""The server's state: SQLite by default, PostgreSQL where replicas share it, through the same models.

What was acknowledged survives a SIGKILL: SQLite writes ahead and flushes at every commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from cadran.serve.state.base import Base


class Database:
    """Open for as long as the server runs. Its methods wait for the disk: call them with ``asyncio.to_thread``.

    Args:
        url: as SQLAlchemy writes it; None for a file in the user's data folder.
    """

    def __init__(self, url: str | None = None) -> None:
        if url is None:
            import platformdirs

            folder = Path(platformdirs.user_data_dir("cadran"))
            folder.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{folder / 'server.db'}"
        self.engine: Engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _durable)
        Base.metadata.create_all(self.engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at its end, rolled back by an exception."""
        with Session(self.engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def _durable(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
