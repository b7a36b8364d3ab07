"""Bringing a database to the version of this program, whichever older one wrote it.

The scripts lie in ``migrations/versions``; all that are missing run in one transaction, so a process that is killed
leaves the old version or the new one, and of two processes that open at once the second waits for the first.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from cadran.errors import UserError

FOLDER = Path(__file__).with_name("migrations")
_LOCK = 0x636164726E  # any number that is ours, for PostgreSQL


def migrate(engine: Engine, version: str = "head") -> None:
    """Run the scripts that a database has not seen.

    Args:
        engine: of the database.
        version: to stop at, for tests.

    Raises:
        UserError: a newer version of Cadran wrote it.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        try:
            command.upgrade(configuration(connection), version)
        except CommandError as error:
            raise UserError(f"a newer version of Cadran wrote this database ({error}); install that version") from error


def configuration(connection: Connection) -> Config:
    """What Alembic wants to know, for work within a connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
