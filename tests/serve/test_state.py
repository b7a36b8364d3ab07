"""The server's state: versions, two processes at once, and what a SIGKILL may cost."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from live import LiveServer
from sqlalchemy import select, text

from cadran.errors import UserError
from cadran.serve.state.api_key import KnownKey, add_key, known_keys
from cadran.serve.state.base import Base
from cadran.serve.state.database import Database, _engine, _url
from cadran.serve.state.ledger import EVERY, Ledger
from cadran.serve.state.migrate import migrate
from cadran.serve.state.usage import Spent, Usage, spent_by_key
from cadran.serve.state.vote import Vote


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'state.db'}"


def row(**changes: Any) -> dict[str, Any]:
    return {"at": time.time(), "key": "anna", "model": "tiny", "route": "/v1/x", "prompt_tokens": 3, "cached_tokens": 1,
            "generated_tokens": 2, "seconds": 0.5, "outcome": "done"} | changes  # fmt: skip


def test_migrations_make_exactly_the_models(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_a_database_of_an_older_version_is_upgraded_without_loss(tmp_path: Path) -> None:
    engine = _engine(_url(url(tmp_path)))
    migrate(engine, "0001")
    engine.dispose()
    with sqlite3.connect(tmp_path / "state.db") as old:
        assert not old.execute("select 1 from sqlite_master where name = 'usage'").fetchall()
        old.execute("insert into api_key (name, hash, created) values ('anna', 'aa', 1.5)")
        old.execute("insert into vote (at, subject, choice, record) values (2.5, 's', 1, '{}')")
    database = Database(url(tmp_path))
    with database.session() as session:
        assert known_keys(session) == [KnownKey("anna", "aa", 1.5)]
        assert session.scalars(select(Vote.record)).all() == ["{}"]
        session.add(Usage(**row()))
    database.close()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Database(url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "state.db") as newer:
        newer.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(UserError, match="newer version of Cadran"):
        Database(url(tmp_path))


def test_processes_that_open_at_once_make_one_database(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import sys
        from cadran.serve.state.database import Database
        from cadran.serve.state.api_key import add_key
        print("ready", flush=True)
        sys.stdin.readline()
        database = Database({url(tmp_path)!r})
        for number in range(20):
            with database.session() as session:
                add_key(session, f"{{sys.argv[1]}}-{{number}}")
        database.close()
    """)
    several = [
        subprocess.Popen([sys.executable, "-c", code, str(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in range(3)
    ]
    for each in several:
        assert each.stdout is not None and each.stdout.readline() == b"ready\n"
    for each in several:
        assert each.stdin is not None
        each.stdin.write(b"\n")
        each.stdin.flush()
    assert [each.wait(60) for each in several] == [0] * 3
    for each in several:
        assert each.stdin is not None and each.stdout is not None
        each.stdin.close()
        each.stdout.close()
    database = Database(url(tmp_path))
    with database.reading() as session:
        assert len(known_keys(session)) == 60
    database.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("sqlite://", "in memory"), ("nonsense", "no URL"), ("oracle2://x/y", "needs a package"),
     ("sqlite:////proc/none/state.db", "cannot be written")],
)  # fmt: skip
def test_a_database_that_cannot_be_opened_is_one_sentence(wrong: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Database(wrong)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        Database(url(tmp_path))


def test_others_on_the_machine_cannot_read_it(tmp_path: Path) -> None:
    Database(url(tmp_path)).close()
    assert (tmp_path / "state.db").stat().st_mode & 0o077 == 0


def test_sqlite_writes_ahead_and_flushes(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    database.close()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    with database.session() as writing:
        add_key(writing, "anna")
        with database.reading() as reading:  # or it would wait for itself, until it is refused
            assert known_keys(reading) == []
    database.close()


def test_the_event_loop_goes_on_while_the_database_is_locked(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with database.session() as session:
            session.execute(text("SELECT 1"))  # a transaction begins with its first statement
            held.set()
            let_go.wait(60)

    async def main() -> int:
        ticks = 0
        waiting = asyncio.create_task(database.run(lambda session: add_key(session, "anna")))
        for _ in range(20):
            await asyncio.sleep(0.01)
            ticks += 1
        assert not waiting.done()
        let_go.set()
        await waiting
        return ticks

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    assert asyncio.run(main()) == 20
    holder.join()
    database.close()


def test_accounts_are_written_soon_and_at_the_end(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    ledger = Ledger(database)
    ledger.put(row())
    ledger.put(row(key=None, generated_tokens=5))
    assert EVERY < 1

    def spent() -> dict[str | None, Spent]:
        with database.reading() as session:
            return dict(spent_by_key(session))

    deadline = time.monotonic() + 60
    while (written := spent()) != {"anna": Spent(1, 3, 2), None: Spent(1, 3, 5)}:
        assert time.monotonic() < deadline, written
        time.sleep(0.05)
    for _ in range(7000):
        ledger.put(row())
    database.close()
    database = Database(url(tmp_path))
    with database.reading() as session:
        assert spent_by_key(session)["anna"].answers == 7001
    database.close()


def test_old_accounts_go(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    ledger = Ledger(database, days=2)
    for days in (1, 3):
        ledger.put(row(at=time.time() - days * 86400))
    ledger.close()
    with database.reading() as session:
        assert spent_by_key(session)["anna"].answers == 1
    database.close()


def test_every_answer_is_accounted_for(tiny: Path, tmp_path: Path) -> None:
    live = LiveServer(models=[str(tiny)], database=url(tmp_path))
    with live.service.database.session() as session:
        key = add_key(session, "anna")
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "ignore_eos": True}
    headers = {"x-api-key": key}
    for stream in (False, True):
        httpx.post(f"{live.url}/v1/chat/completions", json={**asked, "stream": stream}, headers=headers)
    refused = httpx.post(f"{live.url}/v1/chat/completions", json={**asked, "model": "none"}, headers=headers)
    assert refused.status_code == 404
    live.close()
    database = Database(url(tmp_path))
    with database.reading() as session:
        rows = session.scalars(select(Usage).order_by(Usage.id)).all()
    database.close()
    assert [(each.key, each.model, each.route, each.generated_tokens, each.outcome) for each in rows] == [
        ("anna", "tiny", "/v1/chat/completions", 4, "done")
    ] * 2
    assert all(each.prompt_tokens > 1 and each.seconds > 0 for each in rows)
    assert rows[1].cached_tokens > 0
