"""From inputs to what is asked, and from events to predictions and their streams. No server."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from replicate.client import Client
from replicate.stream import EventSource

from cadran.engine.sampler import SamplingParams
from cadran.serve.answering import to_json
from cadran.serve.api_error import ApiError
from cadran.serve.events import Admitted, Event, Failed, Finished, Prefilled, Reasoned, Spoke, Used
from cadran.serve.replicate.base_address import base_address
from cadran.serve.replicate.input import echoed, read_input
from cadran.serve.replicate.output import OutputItems, streamable
from cadran.serve.replicate.prediction import Prediction
from cadran.serve.replicate.preferences import hold_seconds, lifetime_seconds
from cadran.serve.replicate.problem import InvalidInput, refuse
from cadran.serve.replicate.stream import frames, position_after

LINE_ENDS = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
texts = st.text(st.characters(codec="utf-8") | st.sampled_from(LINE_ENDS + ":ahpst"), max_size=12)


class Clock:
    """A second passes each time it is read."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def fed(*events: Event, **options: Any) -> Prediction:
    prediction = Prediction(
        "id", 1, model="meta/llama", version="hidden", input={"prompt": "x"}, owner=None, clock=Clock(), **options
    )
    for event in events:
        prediction.feed(event)
    return prediction


def spoken(*pieces: str) -> Prediction:
    return fed(Admitted(3), Prefilled(0), *(Spoke(0, piece) for piece in pieces), Finished(0, "eos"), Used(3, 0, 5))


def received(stream: Iterable[bytes]) -> list[tuple[str, str, str]]:
    """What the client's own decoder makes of a stream."""
    import httpx

    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b"".join(stream))
    source = EventSource(Client(api_token="none"), response)
    return [(event.event.value, event.data, event.id) for event in source]


# -- inputs


def test_the_defaults_are_those_of_llama() -> None:
    asked = read_input({"prompt": "x"}).asked("m", True)
    assert asked.messages == ({"role": "user", "content": "x"},) and asked.prompt is None
    assert asked.max_tokens == 512 and asked.stop == ()
    chosen = dict(asked.sampling)
    assert 0 <= chosen.pop("seed") < 2**64
    assert chosen == {
        "temperature": 0.6, "top_p": 0.9, "top_k": 50, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "repetition_penalty": 1.0, "min_tokens": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_length"])
def test_the_number_of_tokens_has_three_names(name: str) -> None:
    assert read_input({"prompt": "x", name: 7.0}).asked("m", True).max_tokens == 7
    assert read_input({"prompt": "x", name: None}).asked("m", True).max_tokens == 512


def test_stop_sequences_are_a_text_with_commas_or_a_list() -> None:
    assert read_input({"prompt": "x", "stop_sequences": "</s>, ,<|eot|>,"}).stops == ("</s>", " ", "<|eot|>")
    assert read_input({"prompt": "x", "stop_sequences": ["a,b", ""]}).stops == ("a,b",)


def test_stop_sequences_are_bounded() -> None:
    for long in ("x" * 10_001, ["xy"] * 5_001, "xy," * 5_001):
        with pytest.raises(InvalidInput, match="stop_sequences"):
            read_input({"prompt": "x", "stop_sequences": long})
    with pytest.raises(InvalidInput) as caught:
        read_input({"prompt": "x", "stop_sequences": [1] * 100_000, "messages": [2] * 100_000})
    assert len(caught.value.fields) < 6


def test_a_template_is_filled_once_and_continued_as_it_is() -> None:
    asked = read_input({
        "prompt": "say {system_prompt}", "system_prompt": "be {prompt}", "prompt_template": "<{system_prompt}|{prompt}>"
    }).asked("m", True)  # fmt: skip
    assert asked.messages is None and asked.prompt == "<be {prompt}|say {system_prompt}>"


def test_a_model_without_turns_continues_the_prompt() -> None:
    assert read_input({"prompt": "Once"}).asked("m", False).prompt == "Once"
    for refused in ({"prompt": "x", "system_prompt": "y"}, {"messages": [{"role": "user", "content": "x"}]}):
        with pytest.raises(InvalidInput):
            read_input(refused).asked("m", False)


def test_messages_follow_the_system_prompt() -> None:
    turns = [{"role": "user", "content": "a", "extra": [1]}, {"role": "assistant", "content": "b"}]
    given = {"messages": turns, "system_prompt": "s", "unknown": {"deep": float("nan")}, "also": float("inf")}
    read = read_input(given)
    assert read.asked("m", True).messages == (
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    )  # fmt: skip
    assert echoed(given, read) == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "system_prompt": "s",
    }  # fmt: skip


def test_every_field_that_is_wrong_is_named_as_it_was_written() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_input({"prompt": 3, "max_length": 0, "temperature": "0.5", "top_p": 1.5, "stop_sequences": [1]})
    answer = refuse(caught.value, "")
    body = json.loads(bytes(answer.body))
    assert (answer.status_code, body["status"], body["title"]) == (422, 422, "Input validation failed")
    named = {field["field"].split(".")[1]: field["type"] for field in body["invalid_fields"]}
    assert named == {
        "prompt": "invalid_type", "max_length": "number_gte", "temperature": "invalid_type", "top_p": "number_lte",
        "stop_sequences": "invalid_type",
    }  # fmt: skip
    assert all(field["description"] in body["detail"] for field in body["invalid_fields"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([
    "prompt", "system_prompt", "prompt_template", "messages", "max_tokens", "max_new_tokens", "min_tokens", "seed",
    "temperature", "top_p", "top_k", "presence_penalty", "repetition_penalty", "length_penalty", "stop_sequences",
    "log_performance_metrics", "anything",
])  # fmt: skip


@given(st.dictionaries(names, json_values, max_size=6), st.booleans())
def test_any_input_is_understood_or_refused(input: dict[str, Any], chats: bool) -> None:
    try:
        read = read_input(input)
        asked = read.asked("m", chats)
    except InvalidInput as refused:
        assert refused.fields and refuse(refused, "").status_code == 422
        return
    SamplingParams(**{**asked.sampling, "max_tokens": asked.max_tokens})
    assert (asked.messages is None) != (asked.prompt is None)
    assert json.loads(to_json(echoed(input, read))) is not None


# -- output


@given(st.lists(texts, max_size=8))
def test_items_joined_are_the_text_and_no_address(pieces: list[str]) -> None:
    items = OutputItems()
    cut = [item for piece in pieces for item in items.push(piece)] + items.end()
    assert "".join(cut) == "".join(pieces)
    assert not any(item.lower().startswith(("https:", "http:", "data:")) or not item for item in cut)


@given(st.lists(texts, max_size=8))
def test_the_client_receives_the_text_but_for_line_ends(pieces: list[str]) -> None:
    events = received(frames(spoken(*pieces), 0))
    said = "".join(str(data) for event, data, _ in events if event == "output")
    assert said == streamable("".join(pieces))
    assert events[-1][:2] == ("done", "{}")
    assert not set(LINE_ENDS.replace("\n", "")) & set(said)


def test_line_ends_become_newlines_and_separators_spaces() -> None:
    assert streamable("a\r\nb\rc\vd\fe\x85f\u2028g\u2029h\ni") == "a\nb\nc\nd\ne\nf\ng\nh\ni"
    assert streamable("a\x1cb\x1dc\x1ed\ud800") == "a b c d?"


# -- predictions


def test_a_prediction_goes_from_starting_to_succeeded() -> None:
    prediction = fed()
    body = prediction.body("http://h:1")
    assert (body["status"], body["output"], body["started_at"], body["error"]) == ("starting", None, None, None)
    prediction.feed(Admitted(3))
    assert (prediction.status, prediction.body("")["output"], prediction.over) == ("processing", [], False)
    prediction.feed(Prefilled(0))
    prediction.feed(Reasoned(0, "hm"))
    prediction.feed(Spoke(0, "a"))
    assert prediction.body("")["output"] == ["a"]
    fresh = prediction.body("", fresh=True)
    assert (fresh["status"], fresh["output"], fresh["logs"], fresh["started_at"]) == ("starting", None, "", None)
    prediction.feed(Spoke(0, "b\r"))
    prediction.feed(Finished(0, "length"))
    prediction.feed(Used(3, 1, 2, first_token=0.25, seconds=0.5))
    body = prediction.body("http://h:1")
    assert (body["status"], body["output"], body["logs"]) == ("succeeded", ["a", "b", "\r"], "hm")
    assert body["created_at"] == "2023-11-14T22:13:21.000Z"
    assert body["metrics"] == {
        "input_token_count": 3, "output_token_count": 2, "time_to_first_token": 0.25, "tokens_per_second": 4.0,
        "predict_time": 1.0, "total_time": 2.0,
    }  # fmt: skip
    assert body["urls"]["stream"] == "http://h:1/v1/predictions/id/stream"
    assert [told.event for told in prediction.told] == ["logs", "output", "output", "output", "done"]


def test_an_empty_answer_is_an_empty_list() -> None:
    assert spoken().body("")["output"] == []


def test_logs_tell_what_it_took_when_they_are_asked_to() -> None:
    prediction = fed(Admitted(3), Finished(0, "eos"), Used(3, 1, 2, seconds=1), logs_metrics=True)
    assert "2 tokens in" in prediction.body("")["logs"]
    assert [event for event, _, _ in received(frames(prediction, 0))] == ["logs", "done"]


def test_a_failure_is_told_in_the_body_and_in_the_stream() -> None:
    prediction = fed(Admitted(3), Spoke(0, "a"), Failed(ApiError("internal", "it broke")), Spoke(0, "late"))
    body = prediction.body("")
    assert (body["status"], body["error"], body["output"]) == ("failed", "it broke", ["a"])
    with pytest.raises(RuntimeError, match="it broke"):
        received(frames(prediction, 0))
    assert json.loads(prediction.told[-1].data) == {"reason": "error"}


def test_cancelling_ends_once() -> None:
    prediction = fed(Admitted(3), Spoke(0, "a\r"))
    prediction.cancel()
    prediction.cancel()
    prediction.fail(ApiError("internal", "late"))
    assert prediction.body("")["output"] == ["a", "\r"] and prediction.status == "canceled"
    assert [told.event for told in prediction.told] == ["output", "output", "done"]
    before = fed()
    before.cancel()
    assert before.body("")["output"] is None and before.refused is None and before.begun.is_set()


def test_a_generation_that_was_ended_is_canceled() -> None:
    assert fed(Admitted(3), Finished(0, "cancelled"), Used()).status == "canceled"


@given(st.lists(texts.filter(bool), min_size=1, max_size=6), st.integers(0, 8))
def test_a_stream_goes_on_behind_the_last_event(pieces: list[str], seen: int) -> None:
    prediction = spoken(*pieces)
    whole = received(frames(prediction, 0))
    seen = min(seen, len(whole) - 1)
    last = whole[seen - 1][2] if seen else None
    assert received(frames(prediction, position_after(prediction, last))) == whole[seen:]


@pytest.mark.parametrize("last", ["", "x", "1:0", "1700000001000", "1700000001000:-1", "1700000001000:٣"])
def test_an_id_of_something_else_begins_anew(last: str) -> None:
    assert position_after(spoken("a", "b"), last) == 0


def test_an_id_beyond_the_end_ends_at_once() -> None:
    assert position_after(spoken("a"), "1700000001000:999999999") == 2


# -- headers


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0), ("", 0), ("respond-async", 0), ("wait", 55), ("wait=60", 55), ("wait=10", 9), ("Wait = 10", 9),
        ("respond-async, wait=4", 3), ("wait=1", 0.5), ("wait=0", 0), ("wait=x", 0), ("wait=9" + "9" * 20, 0),
        ('wait="10"', 9), ("waiting", 0),
    ],
)  # fmt: skip
def test_the_hold_ends_before_the_client_gives_up(prefer: str | None, seconds: float) -> None:
    assert hold_seconds(prefer) == seconds


def test_the_lifetime_is_a_duration() -> None:
    assert [lifetime_seconds(text) for text in (None, "30s", "1m30s", "2h", "45", "1s")] == [None, 30, 90, 7200, 45, 5]
    for wrong in ("", "soon", "1d", "-5s", "9" * 30):
        with pytest.raises(ApiError):
            lifetime_seconds(wrong)


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"host": "localhost:8000"}, "http://localhost:8000"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000"),
        (
            {"host": "h", "x-forwarded-proto": "https", "x-forwarded-host": "api.example.org, h"},
            "https://api.example.org",
        ),
        ({"host": "h", "x-forwarded-proto": "javascript", "x-forwarded-host": 'a"b'}, "http://h"),
    ],
)
def test_addresses_are_those_that_the_client_uses(headers: dict[str, str], base: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "scheme": "http", "path": "/", "query_string": b"", "headers": raw, "server": ("h", 1)}
    assert base_address(Request(scope)) == base


def test_waiting_for_news_ends_with_the_next_event() -> None:
    async def work() -> Iterator[str]:
        prediction = fed(Admitted(1))
        waiting = asyncio.create_task(prediction.news())
        await asyncio.sleep(0)
        assert not waiting.done()
        prediction.feed(Spoke(0, "a"))
        await asyncio.wait_for(waiting, 5)
        return iter(told.data for told in prediction.told)

    assert list(asyncio.run(work())) == ["a"]
