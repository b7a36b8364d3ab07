"""What becomes of responses in the background when servers stop, are killed, or share a database."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from live import LiveServer, until
from replicate_engines import slow
from test_responses_background import LONG_AWAY, client_of, polled, said
from tiny import tiny_model

from cadran.serve.openai import responses_background
from cadran.serve.state import stored_response as stored
from cadran.serve.state.database import Database

SERVE = """
import sys
sys.path.append(sys.argv[3])
from replicate_engines import slow
from cadran.serve.openai import responses_background
from cadran.serve.server import Server
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings
responses_background.LEASE_SECONDS = 3.0
responses_background.RENEW_SECONDS = 0.2
settings = ServeSettings(models=[sys.argv[1]], database=sys.argv[2], port=0, grace=0.2)
Server(Service(settings, slow), lambda urls: print(urls[0], flush=True)).run()
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with so long a context that an answer takes longer than any test where a token takes 20 ms."""
    return tiny_model(tmp_path_factory.mktemp("endless") / "tiny", context=30_000)


def test_end_of_the_server_is_said(endless: Path, database: str) -> None:
    live = LiveServer(slow, models=[str(endless)], database=database, grace=0.3, parallel=2)
    client = client_of(live.url)
    ids = [client.responses.create(**LONG_AWAY).id for _ in range(3)]
    until(lambda: client.responses.retrieve(ids[0]).status == "in_progress")
    live.stop()
    assert live.join()
    again = LiveServer(models=[str(endless)], database=database)
    try:
        client = client_of(again.url)
        for id in ids:
            failed = client.responses.retrieve(id)
            assert failed.status == "failed" and failed.error is not None
            assert "stop" in failed.error.message and "again" in failed.error.message
    finally:
        live.close()
        again.close()


def test_one_that_ends_within_the_grace_is_whole(tiny: Path, database: str) -> None:
    live = LiveServer(models=[str(tiny)], database=database, grace=60)
    made = client_of(live.url).responses.create(**LONG_AWAY, max_output_tokens=300)
    live.stop()
    assert live.join(120)
    opened = Database(database)
    with opened.reading() as session:
        assert stored.read_body(session, made.id, None)["status"] == "incomplete"
        assert stored.read_lease(session, made.id, None) is None
    opened.close()
    live.close()


def test_what_was_under_way_when_a_server_was_killed_has_failed(endless: Path, database: str) -> None:
    command = [sys.executable, "-c", SERVE, str(endless), database, str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        client = client_of(process.stdout.readline().strip())
        ids = [client.responses.create(**LONG_AWAY).id for _ in range(2)]
        time.sleep(3.5)  # longer than a lease
        assert client.responses.retrieve(ids[0]).status == "in_progress"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    live = LiveServer(models=[str(endless)], database=database)
    try:
        client = client_of(live.url)
        failed = polled(client, ids[0])
        assert failed.status == "failed" and failed.error is not None and "ask again" in failed.error.message
        assert client.responses.cancel(ids[0]).to_dict() == failed.to_dict()
        events = list(client.responses.retrieve(ids[1], stream=True))
        assert [event.type for event in events] == ["response.created", "response.failed"]
        follow = client.responses.create(model="tiny", input="x", previous_response_id=ids[1], extra_body=said("deux"))
        assert follow.output_text == "deux"
        client.responses.delete(ids[1])
    finally:
        live.close()


def test_another_server_of_the_same_database_tells_cancels_and_deletes(
    endless: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses_background, "RENEW_SECONDS", 0.1)
    maker, other = (LiveServer(slow, models=[str(endless)], database=database) for _ in range(2))
    try:
        one, two = client_of(maker.url), client_of(other.url)
        made, lost = (one.responses.create(**LONG_AWAY).id for _ in range(2))
        until(lambda: two.responses.retrieve(made).status == "in_progress")
        with pytest.raises(openai.BadRequestError, match="wait"):
            two.responses.create(model="tiny", input="x", previous_response_id=made)
        with pytest.raises(openai.ConflictError, match="another server"):
            two.responses.retrieve(made, stream=True)
        assert two.responses.cancel(made).status == "cancelled"
        two.responses.delete(lost)
        maker.settle()
        assert polled(one, made).status == two.responses.retrieve(made).status == "cancelled"
        for client in (one, two):
            until(lambda client=client: gone(client, lost))  # type: ignore[misc]
    finally:
        maker.close()
        other.close()


def gone(client: openai.OpenAI, id: str) -> bool:
    try:
        client.responses.retrieve(id)
    except openai.NotFoundError:
        return True
    return False


def row(number: int, status: str, lease: float | None) -> stored.StoredResponse:
    body: dict[str, Any] = {"id": f"resp_{number:024x}", "previous_response_id": None, "status": status, "output": []}
    return stored.StoredResponse.of(None, body, [], [], lease)


def test_one_that_cannot_be_stored_is_not_begun(tiny: Path, database: str) -> None:
    live = LiveServer(models=[str(tiny)], database=database)
    try:
        client = client_of(live.url)
        made = client.responses.create(**LONG_AWAY)
        with live.service.database.session() as session:
            session.connection().exec_driver_sql("DROP TABLE stored_response")
        with pytest.raises(openai.InternalServerError, match="not begun"):
            client.responses.create(**LONG_AWAY)
        live.settle()
        with pytest.raises(openai.InternalServerError):
            client.responses.retrieve(made.id)
    finally:
        live.close()


def test_one_under_way_is_not_pushed_out_and_counts_from_its_end(database: str) -> None:
    opened = Database(database)
    now = time.time()

    def there() -> list[int]:
        with opened.reading() as session:
            return [int(found.response[5:], 16) for found in session.query(stored.StoredResponse)]

    try:
        with opened.session() as session:
            session.add_all([row(1, "queued", now + 60), row(2, "queued", now - 60), row(3, "queued", now + 60)])
        for number in (4, 5, 6):
            with opened.session() as session:
                stored.store(session, row(number, "completed", None), 2)
        assert there() == [1, 3, 5, 6]
        with opened.session() as session:
            assert stored.finish(session, row(1, "completed", None), 2)
        assert there() == [3, 6, 1]
        with opened.session() as session:
            assert not stored.finish(session, row(1, "failed", None), 2)
            assert not stored.finish(session, row(9, "completed", None), 2)
            ids = [f"resp_{number:024x}" for number in (1, 3, 9)]
            assert stored.renew(session, ids, now + 99, {ids[1]: {"status": "in_progress"}}) == {ids[1]}
        with opened.reading() as session:
            assert stored.read_lease(session, ids[1], None) == now + 99
            assert stored.read_lease(session, ids[1], "key") is None
            assert stored.read_body(session, ids[1], None) == {"status": "in_progress"}
        with opened.session() as session:
            ended = {"id": ids[1], "status": "failed"}
            assert not stored.end(session, ended, [], now + 60)
            assert stored.end(session, ended, [], now + 99)
            assert not stored.end(session, ended, [], now + 99)
    finally:
        opened.close()
