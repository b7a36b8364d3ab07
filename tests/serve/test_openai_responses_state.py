"""Stored responses: kept over restarts and kills, replayed, deleted, cancelled, and nobody else's business."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from live import LiveServer
from replicate_engines import slow as slowly_open
from sqlalchemy.orm import Session
from tiny import tiny_model

from cadran.serve.state import stored_response
from cadran.serve.state.api_key import add_key
from cadran.serve.state.database import Database

LONG = {"model": "tiny", "input": "Encore", "extra_body": {"ignore_eos": True, "seed": 2}}
SERVE = """
import sys
from cadran.serve.server import Server
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings
settings = ServeSettings(models=[sys.argv[1]], database=sys.argv[2], port=0)
Server(Service(settings), lambda urls: print(urls[0], flush=True)).run()
"""


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def said(text: str) -> dict[str, Any]:
    return {"structured_outputs": {"choice": [text]}}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A token takes 20 ms, and its model has room for so many that an answer takes longer than any test."""
    live = LiveServer(slowly_open, models=[str(tiny_model(tmp_path_factory.mktemp("slow") / "tiny", context=30_000))])
    yield live
    live.close()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(server.url) as client:
        yield client


def start(tiny: Path, database: str) -> tuple["subprocess.Popen[str]", str]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(tiny), database], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_response_that_was_acknowledged_survives_sigkill_and_is_continued(tiny: Path, database: str) -> None:
    process, url = start(tiny, database)
    try:
        plain = client_of(url).responses.create(model="tiny", input="Un", extra_body=said("deux"))
        with client_of(url).responses.stream(
            model="tiny", input="trois", previous_response_id=plain.id, extra_body=said("quatre")
        ) as stream:
            for event in stream:
                if event.type == "response.completed":
                    os.kill(process.pid, signal.SIGKILL)
                    streamed = event.response
                    break
    finally:
        process.kill()
        process.wait()
    live = LiveServer(models=[str(tiny)], database=database)
    try:
        client = client_of(live.url)
        assert client.responses.retrieve(plain.id).output_text == "deux"
        assert client.responses.retrieve(streamed.id).output_text == "quatre"
        follow = {"model": "tiny", "input": "cinq"}
        counted = client.responses.input_tokens.count(**follow, previous_response_id=streamed.id).input_tokens
        told = [
            {"role": role, "content": content}
            for role, content in (
                ("user", "Un"), ("assistant", "deux"), ("user", "trois"), ("assistant", "quatre"), ("user", "cinq")
            )
        ]  # fmt: skip
        assert counted == client.responses.input_tokens.count(model="tiny", input=told).input_tokens
    finally:
        live.close()


@pytest.mark.parametrize("stream", [False, True])
def test_end_is_told_only_when_it_is_on_the_disk(
    server: LiveServer, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    kept = stored_response.store

    def slowly(session: Session, row: stored_response.StoredResponse, most: int) -> None:
        time.sleep(0.3)
        kept(session, row, most)

    monkeypatch.setattr(stored_response, "store", slowly)
    if stream:
        events = client.responses.create(model="tiny", input="Un", stream=True, extra_body=said("deux"))
        id = next(event.response.id for event in events if event.type == "response.completed")
    else:
        id = client.responses.create(model="tiny", input="Un", extra_body=said("deux")).id
    with server.service.database.reading() as session:
        assert stored_response.read_body(session, id, None)["status"] == "completed"


def test_stream_is_replayed_from_where_it_broke(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="tiny", input="Un", stream=True, extra_body=said("deux trois")))
    id = events[0].response.id
    again = list(client.responses.retrieve(id, stream=True))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in events]
    rest = list(client.responses.retrieve(id, stream=True, starting_after=4))
    assert [event.sequence_number for event in rest] == list(range(5, len(events)))
    with client.responses.stream(response_id=id, starting_after=4) as stream:
        assert stream.get_final_response().output_text == "deux trois"


def test_plain_answer_is_replayed_too(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
    with client.responses.stream(response_id=answer.id) as stream:
        assert stream.get_final_response().output_text == "deux"


def test_deleted_response_is_gone(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
    client.responses.delete(answer.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="tiny", input="x", previous_response_id=answer.id)


def test_input_items_come_in_pages_newest_first(client: openai.OpenAI) -> None:
    items = [{"role": "user", "content": f"{number}"} for number in range(5)]
    answer = client.responses.create(model="tiny", input=items, instructions="x", extra_body=said("deux"))
    list_items = client.responses.input_items.list
    assert [item.content[0].text for item in list_items(answer.id)] == ["4", "3", "2", "1", "0"]
    page = list_items(answer.id, limit=2, order="asc")
    assert [item.content[0].text for item in page.data] == ["0", "1"] and page.has_more
    assert [item.content[0].text for item in page] == ["0", "1", "2", "3", "4"]


def test_stream_ends_with_its_client_and_is_not_continued_before(slow: LiveServer) -> None:
    client = client_of(slow.url)
    stream = client.responses.create(**LONG, stream=True)
    id = next(iter(stream)).response.id
    assert client.responses.retrieve(id).status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="wait"):
        client.responses.create(model="tiny", input="x", previous_response_id=id)
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        client.responses.cancel(id)
    stream.close()
    slow.settle()


def test_deleting_what_is_streamed_ends_it(slow: LiveServer) -> None:
    client = client_of(slow.url)
    stream = client.responses.create(**LONG, stream=True)
    id = next(iter(stream)).response.id
    client.responses.delete(id)
    assert list(stream)[-1].response.status == "cancelled"
    slow.settle()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(id)


def test_client_that_leaves_cancels(slow: LiveServer) -> None:
    client = client_of(slow.url)
    stream = client.responses.create(**LONG, stream=True)
    id = next(iter(stream)).response.id
    stream.close()
    slow.settle()
    until = time.monotonic() + 60
    while (status := client.responses.retrieve(id).status) == "in_progress" and time.monotonic() < until:
        time.sleep(0.02)
    assert status == "cancelled"
    with client.responses.stream(response_id=id) as again:
        assert [event.type for event in again][-1] == "response.incomplete"


def test_oldest_responses_go_first_and_keys_see_only_their_own(tiny: Path, database: str) -> None:
    opened = Database(database)
    with opened.session() as session:
        keys = [add_key(session, name) for name in ("one", "two")]
    opened.close()
    live = LiveServer(models=[str(tiny)], database=database, stored_responses=2)
    try:
        one, two = (client_of(live.url, key) for key in keys)
        foreign = two.responses.create(model="tiny", input="Un", extra_body=said("deux"))
        ids = [one.responses.create(model="tiny", input="Un", extra_body=said("deux")).id for _ in range(3)]
        with pytest.raises(openai.NotFoundError):
            one.responses.retrieve(ids[0])
        assert one.responses.retrieve(ids[1]).id == ids[1]
        assert two.responses.retrieve(foreign.id).id == foreign.id
        for secret in (one.responses.retrieve, one.responses.delete, one.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                secret(foreign.id)
        with pytest.raises(openai.NotFoundError):
            one.responses.create(model="tiny", input="x", previous_response_id=foreign.id)
        with pytest.raises(openai.NotFoundError):
            one.responses.create(model="tiny", input=[{"type": "item_reference", "id": foreign.output[0].id}])
        assert two.responses.retrieve(foreign.id).id == foreign.id
    finally:
        live.close()


def test_response_that_cannot_be_stored_is_not_called_complete(tiny: Path, database: str) -> None:
    live = LiveServer(models=[str(tiny)], database=database)
    try:
        client = client_of(live.url)
        client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
        opened = live.service.database
        with opened.session() as session:
            session.connection().exec_driver_sql("DROP TABLE stored_response")
        events = list(client.responses.create(model="tiny", input="Un", stream=True, extra_body=said("deux")))
        assert events[-1].type == "response.failed" and events[-1].sequence_number == len(events) - 1
        with pytest.raises(openai.InternalServerError, match="stored"):
            client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
        unstored = client.responses.create(model="tiny", input="Un", store=False, extra_body=said("deux"))
        assert unstored.output_text == "deux"
    finally:
        live.close()


def test_nothing_is_stored_where_none_are_kept(tiny: Path, database: str) -> None:
    live = LiveServer(models=[str(tiny)], database=database, stored_responses=0)
    try:
        answer = httpx.post(f"{live.url}/v1/responses", json={"model": "tiny", "input": "x", "max_output_tokens": 2})
        assert answer.json()["store"] is False
        assert httpx.get(f"{live.url}/v1/responses/{answer.json()['id']}").status_code == 404
    finally:
        live.close()
