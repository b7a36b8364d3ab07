"""Responses in the background, through the real ``openai`` package: polled, cancelled and followed."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer, asking, until
from openai.types.responses import Response
from replicate_engines import slow
from tiny import tiny_model

from cadran.serve import watch
from cadran.serve.api_error import ApiError
from cadran.serve.events import Admitted, Event, Failed, Finished, Spoke, Used
from cadran.serve.openai.responses_answer import ResponseHead, cut_off
from cadran.serve.openai.responses_live import LiveResponse
from cadran.serve.rate_limit import RateLimits
from cadran.serve.state import stored_response as stored
from cadran.serve.state.api_key import add_key
from cadran.serve.state.database import Database
from cadran.serve.state.usage import spent_by_key

LONG: dict[str, Any] = {"model": "tiny", "input": "Encore", "extra_body": {"ignore_eos": True, "seed": 2}}
LONG_AWAY: dict[str, Any] = {**LONG, "background": True}
UNDER_WAY = ("queued", "in_progress")


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def said(text: str) -> dict[str, Any]:
    return {"structured_outputs": {"choice": [text]}}


def polled(client: openai.OpenAI, id: str, unlike: tuple[str, ...] = UNDER_WAY) -> Response:
    until(lambda: client.responses.retrieve(id).status not in unlike)
    return client.responses.retrieve(id)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with so long a context that an answer takes longer than any test where a token takes 20 ms."""
    return tiny_model(tmp_path_factory.mktemp("endless") / "tiny", context=30_000)


@pytest.fixture(scope="module")
def single(endless: Path) -> Iterator[LiveServer]:
    """One place, and one to wait for it."""
    live = LiveServer(slow, models=[str(endless)], parallel=1, queue=1)
    yield live
    live.close()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(server.url) as client:
        yield client


def test_answer_comes_at_once_and_the_whole_of_it_when_it_is_there(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="tiny", input="Un", background=True, metadata={"a": "b"}, extra_body=said("deux")
    )
    assert made.status == "queued" and made.output == [] and made.background is True and made.usage is None
    whole = polled(client, made.id)
    assert whole.status == "completed" and whole.output_text == "deux" and whole.id == made.id
    assert whole.usage is not None and whole.usage.output_tokens > 0
    assert whole.created_at == made.created_at and whole.metadata == {"a": "b"} and whole.background is True
    plain = client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
    assert plain.background is False and plain.usage is not None
    assert plain.usage.output_tokens == whole.usage.output_tokens
    follow = client.responses.create(model="tiny", input="x", previous_response_id=made.id, extra_body=said("trois"))
    assert follow.output_text == "trois"
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]


def test_token_limit_and_log_probabilities_are_told_as_otherwise(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "input": "Un", "max_output_tokens": 3, "truncation": "auto", "top_logprobs": 2,
        "include": ["message.output_text.logprobs"], "extra_body": {"ignore_eos": True, "seed": 1},
    }  # fmt: skip
    cut = polled(client, client.responses.create(**asked, background=True).id)
    plain = client.responses.create(**asked)
    assert cut.status == "incomplete" and cut.incomplete_details and cut.incomplete_details.reason
    content, same = (answer.to_dict()["output"][0]["content"] for answer in (cut, plain))  # type: ignore[index]
    assert content == same and len(content[0]["logprobs"]) == 3


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"store": False}, "store"), ({"input": None}, "input"), ({"model": "unknown"}, "model"), ({"n": 2}, "n")],
)
def test_what_is_refused_otherwise_is_refused_here(server: LiveServer, asked: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "input": "x", "background": True} | asked
    refused = httpx.post(f"{server.url}/v1/responses", json=body)
    assert refused.status_code == (404 if "model" in asked else 400), refused.text
    assert refused.json()["error"]["param"] == param


def test_request_that_does_not_fit_is_refused_and_not_stored(
    server: LiveServer, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadran.serve.openai.responses_background.REFUSAL_SECONDS", 300.0)  # on a busy machine, too

    def rows() -> int:
        with server.service.database.reading() as session:
            return session.query(stored.StoredResponse).count()

    server.settle()
    before = rows()
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="é" * 3000, background=True)
    assert caught.value.code == "context_length_exceeded"
    time.sleep(0.1)
    assert rows() == before
    assert server.call(lambda: len(server.service.exchanges)) == 0


def test_it_waits_for_its_place_and_holds_it_like_any_other(single: LiveServer) -> None:
    client = client_of(single.url)
    first = client.responses.create(**LONG_AWAY)
    second = client.responses.create(**LONG_AWAY)
    assert polled(client, first.id, ("queued",)).status == "in_progress"
    assert client.responses.retrieve(second.id).status == "queued"
    for background in (True, False):
        with pytest.raises(openai.RateLimitError):
            client.responses.create(**LONG, background=background)
    until(lambda: bool(client.responses.retrieve(first.id).output))
    cancelled = client.responses.cancel(first.id)
    assert cancelled.status == "cancelled" and cancelled.output[0].type == "message"
    assert polled(client, second.id, ("queued",)).status == "in_progress"
    assert client.responses.cancel(second.id).status == "cancelled"
    assert single.call(lambda: (single.service.admission.running, single.service.admission.waiting)) == (0, 0)
    again = client.responses.cancel(first.id)
    assert again.to_dict() == client.responses.retrieve(first.id).to_dict() == cancelled.to_dict()


def test_one_that_waits_is_cancelled_too(single: LiveServer) -> None:
    client = client_of(single.url)
    first, second = (client.responses.create(**LONG_AWAY).id for _ in range(2))
    assert client.responses.cancel(second).status == "cancelled"
    assert single.call(lambda: single.service.admission.waiting) == 0
    client.responses.delete(first)
    single.settle()
    assert client.responses.retrieve(second).output == []


def test_cancelling_what_is_over_changes_nothing_and_what_is_not_in_the_background_is_refused(
    client: openai.OpenAI,
) -> None:
    made = client.responses.create(model="tiny", input="Un", background=True, extra_body=said("deux"))
    whole = polled(client, made.id)
    assert client.responses.cancel(made.id).to_dict() == whole.to_dict()
    plain = client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        client.responses.cancel(plain.id)


def test_deleting_one_under_way_ends_it(single: LiveServer) -> None:
    client = client_of(single.url)
    made = client.responses.create(**LONG_AWAY)
    client.responses.delete(made.id)
    assert single.call(lambda: single.service.admission.running) == 0
    for gone in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_one_that_is_not_completed_cannot_be_continued(single: LiveServer) -> None:
    client = client_of(single.url)
    made = client.responses.create(**LONG_AWAY)
    with pytest.raises(openai.BadRequestError, match="wait") as caught:
        client.responses.create(model="tiny", input="x", previous_response_id=made.id)
    assert caught.value.param == "previous_response_id"
    client.responses.delete(made.id)


def test_client_that_leaves_before_it_has_the_id_wants_nothing(
    single: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(single.url)
    first = client.responses.create(**LONG_AWAY)
    monkeypatch.setattr("cadran.serve.openai.responses_background.REFUSAL_SECONDS", 600.0)  # it gets none
    body = {"model": "tiny", "input": "Encore", "background": True}
    with asking(single, "/v1/responses", body):
        until(lambda: bool(single.call(lambda: single.service.admission.waiting) == 1))
    until(lambda: bool(single.call(lambda: single.service.admission.waiting) == 0))
    client.responses.delete(first.id)


def test_stream_goes_on_without_its_client_and_is_taken_up_again(tiny: Path, database: str) -> None:
    live = LiveServer(models=[str(tiny)], database=database)
    try:
        client = client_of(live.url)
        asked = {**LONG_AWAY, "stream": True, "max_output_tokens": 300}
        seen = []
        with client.responses.create(**asked) as stream:
            for event in stream:
                seen.append(event)
                if len(seen) == 7:
                    break
        assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
        id = seen[0].response.id
        rest = list(client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number))
        assert rest[-1].type == "response.incomplete"
        assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
        assert rest[-1].response.to_dict() == client.responses.retrieve(id).to_dict()
        told = [event.to_dict() for event in [*seen, *rest]]
        assert [event.to_dict() for event in client.responses.retrieve(id, stream=True)] == told
        whole = client.responses.create(**LONG, max_output_tokens=300)
        assert rest[-1].response.output_text == whole.output_text
        with client.responses.stream(response_id=id) as again:
            assert "".join(event.delta for event in again if event.type == "response.output_text.delta")
        assert list(client.responses.retrieve(id, stream=True, starting_after=10**9)) == []
    finally:
        live.close()


def test_stream_of_the_sdk_ends_with_the_whole_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="Un", background=True, extra_body=said("deux é 😀")) as stream:
        final = stream.get_final_response()
    assert final.status == "completed" and final.output_text == "deux é 😀"
    assert client.responses.retrieve(final.id).output_text == "deux é 😀"


def test_stream_that_waits_says_so_and_ends_when_it_is_cancelled(single: LiveServer) -> None:
    client = client_of(single.url)
    first = client.responses.create(**LONG_AWAY)
    stream = iter(client.responses.create(**LONG_AWAY, stream=True))
    begun = [next(stream), next(stream)]
    assert [event.type for event in begun] == ["response.created", "response.queued"]
    id = begun[0].response.id
    client.responses.cancel(id)
    rest = list(stream)
    assert [event.type for event in rest] == ["response.incomplete"] and rest[0].response.status == "cancelled"
    client.responses.delete(first.id)


def test_nobody_finds_what_was_made_with_another_key_and_limits_count_it(
    tiny: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No time passes, or what flows in would admit one more on a slow machine.
    monkeypatch.setattr(watch, "RateLimits", partial(RateLimits, clock=lambda: 0.0))
    opened = Database(database)
    with opened.session() as session:
        keys = [add_key(session, name) for name in ("one", "two")]
    opened.close()
    live = LiveServer(models=[str(tiny)], database=database, requests_per_minute=2)
    try:
        one, two = (client_of(live.url, key) for key in keys)
        made = one.responses.create(model="tiny", input="Un", background=True, extra_body=said("deux"))
        for secret in (two.responses.retrieve, two.responses.delete, two.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                secret(made.id)
        assert polled(one, made.id).output_text == "deux"
        one.responses.create(model="tiny", input="Un", background=True, extra_body=said("deux"))
        with pytest.raises(openai.RateLimitError):
            one.responses.create(model="tiny", input="Un", background=True)

        def spent() -> int:
            with live.service.database.reading() as session:
                used = spent_by_key(session)
            return used["one"].answers if "one" in used else 0

        until(lambda: spent() == 2)
    finally:
        live.close()


def test_none_are_made_where_none_are_stored(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], stored_responses=0)
    try:
        with pytest.raises(openai.BadRequestError) as caught:
            client_of(live.url).responses.create(model="tiny", input="x", background=True)
        assert caught.value.param == "background"
    finally:
        live.close()


class Shelf:
    """Keeps responses once ``go`` is set, unless they are refused."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.error = asyncio.Event(), error
        self.kept: list[LiveResponse] = []

    async def keep(self, live: LiveResponse) -> None:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.kept.append(live)

    def ended(self, live: LiveResponse) -> None:
        assert not live.over


def live_response(shelf: Shelf) -> LiveResponse:
    told = {"model": "m", "background": True, "previous_response_id": None}
    live = LiveResponse(
        shelf, ResponseHead("resp_" + "0" * 24, 0, told, lambda: 0.0), key=None, items=[], keep=True, background=True
    )
    live.registered.set()
    return live


ENDS: list[list[Event]] = [
    [Admitted(1), Finished(0, "eos"), Used(1, 0, 1)],
    [Admitted(1), Spoke(0, "a"), Finished(0, "length"), Used(1, 0, 1)],
    [Admitted(1), Spoke(0, "a"), Spoke(0, "b"), Failed(ApiError("internal", "no"))],
    [Failed(ApiError("overloaded", "no"))],
    [Admitted(1), Spoke(0, "a")],
    [],
]


@given(st.sampled_from(ENDS), st.lists(st.integers(0, 40), max_size=5), st.booleans())
def test_followers_see_the_same_events_and_the_end_only_when_it_is_stored(
    events: list[Event], positions: list[int], breaks: bool
) -> None:
    async def work() -> None:
        shelf = Shelf(ApiError("conflict", "gone") if breaks else None)
        live = live_response(shelf)
        followed = list(live.told_from(0))
        assert [wire["type"] for wire in followed] == ["response.created", "response.queued"]
        for event in events:
            live.feed(event)
            followed += live.told_from(len(followed))
        concluding = live.conclude_soon()
        await asyncio.sleep(0)
        followed += live.told_from(len(followed))
        assert followed[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed")
        shelf.go.set()
        await concluding
        followed += live.told_from(len(followed))
        assert live.over and followed == live.told
        assert [wire["sequence_number"] for wire in followed] == list(range(len(followed)))
        assert followed[-1]["response"]["status"] == ("failed" if breaks else live.events.status)
        assert followed[-1]["response"]["status"] not in UNDER_WAY
        for position in positions:
            assert list(live.told_from(position)) == followed[position:]
        assert shelf.kept == ([] if breaks else [live])

    asyncio.run(work())


def test_one_whose_server_is_gone_keeps_what_is_known_of_it() -> None:
    item = {"type": "message", "status": "in_progress", "content": []}
    body = {"id": "resp_x", "status": "in_progress", "output": [item], "error": None}
    failed, events = cut_off(body, ApiError("internal", "gone; ask again"))
    assert failed["status"] == "failed" and failed["error"] == {"code": "server_error", "message": "gone; ask again"}
    assert failed["output"] == [{**item, "status": "incomplete"}]
    assert [event["type"] for event in events] == ["response.created", "response.failed"]
    assert events[-1]["response"] == failed and events[0]["response"]["output"] == []
    cancelled, events = cut_off(body, None)
    assert cancelled["status"] == events[-1]["response"]["status"] == "cancelled" and cancelled["error"] is None
