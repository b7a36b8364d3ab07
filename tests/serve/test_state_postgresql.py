"""The same state in a real PostgreSQL, started here; skipped where there is none."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from live import LiveServer
from test_state import row

from cadran.errors import UserError
from cadran.serve.state.api_key import add_key, known_keys
from cadran.serve.state.base import Base
from cadran.serve.state.database import Database, _engine, _url
from cadran.serve.state.ledger import Ledger
from cadran.serve.state.migrate import migrate
from cadran.serve.state.usage import spent_by_key

pytest.importorskip("psycopg", reason="no PostgreSQL driver is here: pip install 'psycopg[binary]'")


def _program(name: str) -> str:
    found = shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        pytest.skip(f"no {name} is here: apt-get install postgresql")
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """URL of the databases of a PostgreSQL that nobody else uses, without a name at the end."""
    initdb, control = _program("initdb"), _program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="cadran-postgresql-"))
    user: dict[str, Any] = {}
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # it refuses to run as root
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data = str(folder / "data")
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
    subprocess.run([initdb, "-D", data, "-U", "cadran", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"], **quiet)
    listen = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
    subprocess.run([control, "-D", data, "-w", "-l", str(folder / "log"), "-o", listen, "start"], **quiet)
    try:
        yield f"postgresql+psycopg://cadran@/{{name}}?host={folder}"
    finally:
        subprocess.run([control, "-D", data, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(cluster: str, request: pytest.FixtureRequest) -> str:
    """A new database."""
    import psycopg

    name = request.node.name[:50].replace("[", "_").replace("]", "_")
    host = cluster.rpartition("host=")[2]
    with psycopg.connect(f"host={host} user=cadran dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return cluster.format(name=name)


def test_migrations_make_exactly_the_models(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_replicas_that_start_at_once_migrate_once_and_nothing_is_lost(database_url: str) -> None:
    engine = _engine(_url(database_url))
    migrate(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql("insert into api_key (name, hash, created) values ('anna', 'aa', 1.5)")
    engine.dispose()
    failures: list[Exception] = []

    def open_and_close() -> None:
        try:
            Database(database_url).close()
        except Exception as error:
            failures.append(error)

    several = [threading.Thread(target=open_and_close) for _ in range(4)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert not failures
    database = Database(database_url)
    with database.reading() as session:
        assert [key.name for key in known_keys(session)] == ["anna"]
    database.close()


def test_keys_accounts_and_refusals_as_in_sqlite(database_url: str) -> None:
    database = Database(database_url)
    with database.session() as session:
        add_key(session, "anna", requests_per_minute=2)
    with pytest.raises(UserError, match="already"), database.session() as session:
        add_key(session, "anna")
    Ledger(database).put(row())
    database.close()
    database = Database(database_url)
    assert asyncio.run(database.run(spent_by_key, write=False))["anna"].answers == 1
    database.close()


def test_two_servers_share_keys_and_votes(database_url: str, tiny: Path) -> None:
    first, second = (LiveServer(models=[str(tiny)], database=database_url) for _ in range(2))
    try:
        with first.service.database.session() as session:
            headers = {"x-api-key": add_key(session, "anna")}
        for number, live in enumerate((first, second)):
            vote = {"messages": [{"role": "user", "content": f"é\u2028 {number}"}], "answer": "a\u0000b", "liked": True}
            assert httpx.post(f"{live.url}/api/votes", json=vote, headers=headers).status_code == 201
        lines = httpx.get(f"{first.url}/api/votes/export", headers=headers).text.splitlines()
        assert len(lines) == 2
    finally:
        first.close()
        second.close()


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"cannot be opened .*connection"):
        Database("postgresql+psycopg://cadran:secret@127.0.0.1:1/none")
