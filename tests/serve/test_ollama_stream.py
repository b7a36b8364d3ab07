"""The lines of an answer, made of events that are written by hand, and read by the ``ollama`` package."""

import json
from collections.abc import Sequence

import httpx
import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from cadran.serve.api_error import ApiError
from cadran.serve.collected import Answer, Call, Collected
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.ollama.answer import Head, LineStream, whole_body
from cadran.serve.ollama.card import amount, tagged
from cadran.serve.ollama.chat_request import ChatRequest
from cadran.serve.ollama.keep_alive import seconds_of
from cadran.serve.ollama.options import Options

TOKENIZER = tiny_tokenizer()
USED = Used(7, 2, 5, 1, 0.25, 0.5, 2.0, 0.125)
BREAKERS = "\u2028\u2029\u0085\v\f\x1c\x1d\x1e\r\n"
"""Everything at which some splitter of lines cuts."""


def head(chat: bool = True) -> Head:
    return Head("m", chat, lambda: "2026-01-01T00:00:00Z", TOKENIZER)


def stream(events: Sequence[Event], chat: bool = True) -> bytes:
    translator = LineStream(head(chat))
    return b"".join(piece for event in events for piece in translator.feed(event))


def read(content: bytes) -> list[ollama.ChatResponse]:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with ollama.Client(host="http://nowhere", transport=transport) as client:
        return list(client.chat("m", [{"role": "user", "content": ""}], stream=True))


def around(*events: Event, reason: str = "eos") -> list[Event]:
    return [Admitted(7), Prefilled(2), *events, Finished(0, reason), USED]  # type: ignore[arg-type]


@given(st.lists(st.text(alphabet=st.sampled_from(list("aé😀" + BREAKERS)), min_size=1), max_size=6))
def test_no_text_breaks_a_line(texts: list[str]) -> None:
    content = stream(around(*(Spoke(0, text) for text in texts)))
    assert b"\n\n" not in content and content.endswith(b"\n") and content.isascii()
    assert "".join(part.message.content or "" for part in read(content)) == "".join(texts)


def test_thinking_is_told_apart() -> None:
    parts = read(stream(around(Reasoned(0, "hm "), Reasoned(0, "so"), Spoke(0, "yes"))))
    assert "".join(part.message.thinking or "" for part in parts) == "hm so"
    assert "".join(part.message.content or "" for part in parts) == "yes"


def test_calls_come_whole_with_objects() -> None:
    events = around(
        Spoke(0, "Let me see."),
        CallBegan(0, 0, "a", "add"), CallArguments(0, 0, '{"a": {"b": '), CallArguments(0, 0, '"}"}}'), CallEnded(0, 0),
        CallBegan(0, 1, "b", "now"), CallArguments(0, 1, "{}"), CallEnded(0, 1),
        reason="tools",
    )  # fmt: skip
    parts = read(stream(events))
    calls = [call.function for part in parts for call in part.message.tool_calls or []]
    assert [(call.name, dict(call.arguments)) for call in calls] == [("add", {"a": {"b": "}"}}), ("now", {})]
    assert parts[-1].done_reason == "stop" and parts[-1].done


def test_a_call_that_was_cut_is_not_told() -> None:
    parts = read(stream(around(CallBegan(0, 0, "a", "add"), CallArguments(0, 0, '{"a"'), reason="length")))
    assert all(not part.message.tool_calls for part in parts)
    assert parts[-1].done_reason == "length"


@pytest.mark.parametrize("chat", [True, False])
def test_stream_and_whole_answer_agree(chat: bool) -> None:
    events = around(
        Reasoned(0, "hm"), Spoke(0, "a"), Spoke(0, "é"),
        CallBegan(0, 0, "x", "add"), CallArguments(0, 0, '{"a": 1e999}'), CallEnded(0, 0), reason="tools",
    )  # fmt: skip
    *_, last = (json.loads(line) for line in stream(events, chat).splitlines())
    calls = [Call("x", "add", '{"a": 1e999}', True), Call("y", "cut", "{")]
    answer = Answer("aé", "hm", calls, reason="tools")
    body = whole_body(head(chat), Collected([answer], {}, USED))
    names = (
        "done_reason",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
    )
    assert {name: last[name] for name in names} == {name: body[name] for name in names}
    message = body["message"] if chat else body
    assert (message["content"] if chat else message["response"]) == "aé" and message["thinking"] == "hm"
    assert message["tool_calls"] == [
        {"id": "call_x", "function": {"index": 0, "name": "add", "arguments": {"a": None}}}
    ]
    assert body["total_duration"] == 2_375_000_000 and body["eval_duration"] == 1_500_000_000


def test_a_failure_is_a_line_that_the_client_raises() -> None:
    content = stream([Admitted(7), Spoke(0, "a"), Failed(ApiError("internal", "it broke;\u2028 try again"))])
    with pytest.raises(ollama.ResponseError, match="it broke"):
        read(content)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        (0, 0),
        ("0", 0),
        ("-0s", 0),
        (-1, None),
        ("-1m", None),
        (1e300, 1e300),
    ],
)
def test_durations_are_read_as_go_writes_them(written: float | str, seconds: float | None) -> None:
    assert seconds_of(written) == seconds


@given(st.text(max_size=20))
def test_a_duration_is_read_or_refused(text: str) -> None:
    try:
        seconds = seconds_of(text)
    except ApiError as error:
        assert error.kind == "invalid"
    else:
        assert seconds is None or seconds >= 0


@pytest.mark.usefixtures("fresh_seeds")
def test_options_have_ollamas_defaults() -> None:
    chosen = Options().sampling()
    assert (chosen["temperature"], chosen["top_k"], chosen["top_p"], chosen["penalty_window"]) == (0.8, 40, 0.9, 64)
    assert Options().sampling()["seed"] != Options().sampling()["seed"]
    assert Options(seed=7).sampling()["seed"] == 7
    assert Options(num_predict=-2).max_tokens is Options(num_predict=-1).max_tokens is None
    assert "repetition_penalty" not in Options(repeat_last_n=0, repeat_penalty=1.5).sampling()


def test_calls_and_their_results_share_ids() -> None:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("add", "now")]
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": calls, "thinking": "hm"},
        {"role": "tool", "content": "2", "tool_name": "add"},
        {"role": "tool", "content": "3", "tool_name": "now"},
    ]
    asked = ChatRequest(messages=messages).asked()  # type: ignore[arg-type]
    assert asked.messages is not None
    _, assistant, first, second = asked.messages
    assert [call["id"] for call in assistant["tool_calls"]] == [first["tool_call_id"], second["tool_call_id"]]
    assert first["tool_call_id"] != second["tool_call_id"] and first["name"] == "add"
    assert assistant["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert assistant["reasoning_content"] == "hm"


def test_tools_of_the_package_are_read() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    content: dict[str, object] = {}

    def handle(request: httpx.Request) -> httpx.Response:
        content.update(json.loads(request.content))
        return httpx.Response(200, json={"message": {"role": "assistant", "content": ""}})

    with ollama.Client(host="http://nowhere", transport=httpx.MockTransport(handle)) as client:
        client.chat("m", [{"role": "user", "content": "1 + 1"}], tools=[add], think=True)
    asked = ChatRequest(**content).asked()  # type: ignore[arg-type]
    (tool,) = asked.tools
    assert tool.name == "add" and set(tool.parameters["properties"]) == {"a", "b"}
    assert asked.thinking is True


def test_an_answer_that_stands_last_is_continued() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Well"}]
    asked = ChatRequest(messages=messages).asked()  # type: ignore[arg-type]
    assert asked.prefill == "Well" and asked.messages is not None and len(asked.messages) == 1


def test_names_and_sizes_are_written_as_ollama_does() -> None:
    assert [tagged(name) for name in ("a", "a:b", "o/a", "h:1/a")] == ["a:latest", "a:b", "o/a:latest", "h:1/a:latest"]
    assert [amount(n) for n in (134_515_008, 1_710_000_000, 70_600_000_000, 97_216)] == [
        "135M",
        "1.71B",
        "70.6B",
        "97.2K",
    ]
