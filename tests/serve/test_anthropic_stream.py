"""The translator of the Messages API alone, on events written by hand."""

import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest
from anthropic_scripted import OPENING, USED, WHOLE, Script
from hypothesis import given
from hypothesis import strategies as st

from cadran.serve.anthropic.message_body import message_body, partial_object
from cadran.serve.anthropic.message_stream import MessageHead, MessageStream
from cadran.serve.api_error import ApiError
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reason,
    Reasoned,
    Spoke,
    Used,
)

HEAD = MessageHead("msg_1", "tiny", "req_1")


def events_of(script: Script) -> list[Event]:
    return [event for event in script if not isinstance(event, float | threading.Event)]


def told(script: Script, head: MessageHead = HEAD) -> list[dict[str, Any]]:
    """What the bytes of the stream say; every record must have its two lines and nothing else."""
    stream, found = MessageStream(head), []
    for event in events_of(script):
        for record in stream.feed(event):
            lines = record.decode("ascii").split("\n")
            assert len(lines) == 4 and lines[2:] == ["", ""], record
            assert lines[0].startswith("event: ") and lines[1].startswith("data: ")
            found.append(json.loads(lines[1][6:]))
            assert found[-1]["type"] == lines[0][7:]
    return found


def body_of(script: Script, head: MessageHead = HEAD) -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async def events() -> AsyncIterator[Event]:
            for event in events_of(script):
                yield event

        return await message_body(events(), MessageStream(head))

    return anyio.run(read)


def test_whole_stream_is_told_in_the_order_of_the_api() -> None:
    records = told(WHOLE)
    assert [(record["type"], record.get("index")) for record in records] == [
        ("message_start", None),
        ("ping", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]
    message = records[0]["message"]
    assert message["usage"] == {
        "input_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 10,
        "output_tokens": 1,
    }
    assert message["content"] == [] and message["stop_reason"] is None
    assert records[2]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert records[5]["delta"]["type"] == "signature_delta" and records[5]["delta"]["signature"]
    assert records[7]["content_block"] == {"type": "text", "text": ""}
    assert records[11]["content_block"] == {"type": "tool_use", "id": "toolu_one", "name": "weather", "input": {}}
    assert records[18]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert records[18]["usage"]["output_tokens"] == 25
    assert records[18]["usage"]["output_tokens_details"] == {"thinking_tokens": 4}


def test_body_holds_what_the_stream_tells() -> None:
    body = body_of(WHOLE)
    thinking, text, weather, clock = body["content"]
    assert thinking["thinking"] == "Zwei Orte, zwei Aufrufe." and thinking["signature"]
    assert text == {"type": "text", "text": "Ich sehe nach. 😀\u2028é"}
    assert weather["input"] == {"place": 'München {"x"}'} and clock["input"] == {}
    assert [weather["id"], clock["id"]] == ["toolu_one", "toolu_two"]
    assert body["stop_reason"] == "tool_use" and body["usage"]["input_tokens"] == 20
    assert body["id"] == "msg_1" and body["type"] == "message" and body["role"] == "assistant"


def test_call_cut_by_the_limit_is_closed_and_keeps_what_it_has() -> None:
    script = [
        *OPENING,
        CallBegan(0, 0, "one", "weather"),
        CallArguments(0, 0, '{"place": "Rom", "days": [1, 2'),
        Finished(0, "length"),
        USED,
    ]
    records = told(script)
    assert [record["type"] for record in records[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert records[-2]["delta"]["stop_reason"] == "max_tokens"
    assert body_of(script)["content"][0]["input"]["place"] == "Rom"


@pytest.mark.parametrize("text", ["", "{", '{"a', "[1]", "null", "nonsense", '{"a": }'])
def test_input_of_a_call_is_an_object_whatever_was_written(text: str) -> None:
    assert isinstance(partial_object(text), dict)


@pytest.mark.parametrize(
    ("finished", "tells", "reason"),
    [
        (Finished(0, "eos"), True, "end_turn"),
        (Finished(0, "stop_string", "###"), True, "stop_sequence"),
        (Finished(0, "length"), True, "max_tokens"),
        (Finished(0, "context"), True, "model_context_window_exceeded"),
        (Finished(0, "context"), False, "max_tokens"),
        (Finished(0, "tools"), True, "tool_use"),
    ],
)
def test_stop_reasons(finished: Finished, tells: bool, reason: str) -> None:
    head = MessageHead("msg_1", "tiny", tells_context=tells)
    script = [*OPENING, Spoke(0, "a"), finished, USED]
    delta = told(script, head)[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": finished.stop}
    body = body_of(script, head)
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, finished.stop)


def test_error_within_the_stream_is_its_last_event() -> None:
    script = [*OPENING, Spoke(0, "half"), Failed(ApiError("internal", "it broke"))]
    records = told(script)
    assert records[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "it broke"},
        "request_id": "req_1",
    }
    assert "message_stop" not in [record["type"] for record in records]
    with pytest.raises(ApiError, match="it broke"):
        body_of(script)


def test_answer_that_was_stopped_never_passes_for_whole() -> None:
    script = [*OPENING, Spoke(0, "half"), Finished(0, "cancelled"), USED]
    assert told(script)[-1]["error"]["type"] == "overloaded_error"
    with pytest.raises(ApiError, match="stopped"):
        body_of(script)


def test_reasoning_is_hidden_from_who_did_not_ask_and_omitted_on_request() -> None:
    hidden = body_of(WHOLE, MessageHead("msg_1", "tiny", shown="hidden"))
    assert [block["type"] for block in hidden["content"]] == ["text", "tool_use", "tool_use"]
    omitted = body_of(WHOLE, MessageHead("msg_1", "tiny", shown="omitted"))["content"][0]
    assert omitted["type"] == "thinking" and omitted["thinking"] == "" and omitted["signature"]


def test_empty_answer_has_an_empty_text() -> None:
    script = [*OPENING, Spoke(0, ""), Finished(0, "eos"), USED]
    assert body_of(script)["content"] == [{"type": "text", "text": ""}]


def test_warming_tells_nothing() -> None:
    body = body_of([*OPENING, Spoke(0, "x"), Finished(0, "length"), USED], MessageHead("m", "tiny", warms=True))
    assert body["content"] == [] and body["usage"]["output_tokens"] == 0 and body["stop_reason"] == "max_tokens"


def test_ping_is_a_comment_until_the_message_has_started() -> None:
    stream = MessageStream(HEAD)
    assert not list(stream.feed(Admitted(3))) and stream.ping() == b": ping\n\n"
    list(stream.feed(Prefilled(0)))
    assert stream.ping() == b'event: ping\ndata: {"type":"ping"}\n\n'


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["\u2028", "\x85", "\n\n", "😀"])
CALLS = st.builds(
    lambda name, pieces, whole: ("call", name, pieces, whole),
    st.sampled_from(["add", "été"]),
    st.lists(TEXTS, max_size=3),
    st.booleans(),
)
PIECES = st.lists(st.builds(lambda t: Reasoned(0, t), TEXTS) | st.builds(lambda t: Spoke(0, t), TEXTS) | CALLS)
REASONS: st.SearchStrategy[Reason] = st.sampled_from(["eos", "length", "context", "tools"])


def _script(pieces: Sequence[Any], reason: Reason) -> list[Event]:
    events: list[Event] = [Admitted(7), Prefilled(2)]
    calls = 0
    for piece in pieces:
        if isinstance(piece, tuple):
            _, name, fragments, whole = piece
            events.append(CallBegan(0, calls, f"id{calls}", name))
            events += [CallArguments(0, calls, fragment) for fragment in fragments]
            events += [CallEnded(0, calls)] if whole else []
            calls += 1
        else:
            events.append(piece)
    return [*events, Finished(0, reason), Used(7, 2, 5)]


@given(PIECES, REASONS)
def test_blocks_never_overlap_and_nothing_is_lost(pieces: list[Any], reason: Reason) -> None:
    script = _script(pieces, reason)
    open_block, said, thought, last = None, "", "", -1
    for record in told(script):
        match record:
            case {"type": "content_block_start", "index": index}:
                assert open_block is None and index == last + 1
                open_block = last = index
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == open_block
                said += delta.get("text", "")
                thought += delta.get("thinking", "")
            case {"type": "content_block_stop", "index": index}:
                assert index == open_block
                open_block = None
    assert open_block is None
    assert said == "".join(event.text for event in script if isinstance(event, Spoke))
    assert thought == "".join(event.text for event in script if isinstance(event, Reasoned))
    body = body_of(script)
    assert "".join(block.get("text", "") for block in body["content"]) == said
    assert "".join(block.get("thinking", "") for block in body["content"]) == thought
    assert sum(block["type"] == "tool_use" for block in body["content"]) == sum(map(_is_call, pieces))


def _is_call(piece: object) -> bool:
    return isinstance(piece, tuple)
