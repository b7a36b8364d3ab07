"""One generation: what it does with stop strings, limits and deadlines, on events made by hand or real ones."""

import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer
from replicate_engines import slow
from tiny import tiny_model

from cadran.engine.completion import Completion
from cadran.engine.request import Scored
from cadran.serve.asked import Tool
from cadran.serve.events import CallArguments, CallBegan, CallEnded, Event, Finished, Reasoned, Spoke
from cadran.serve.generation import _Writer
from cadran.serve.tools.call_syntax import HERMES, Reasoning
from cadran.serve.tools.marked_reader import MarkedReader
from cadran.serve.tools.stop_text import StopText

TOOLS = (Tool("now", "The time."),)
CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
THINK = Reasoning("<think>", "</think>")


def told(texts: list[str], stops: tuple[str, ...] = (), single: bool = False, reason: str = "eos") -> list[Event]:
    """What a writer tells of an answer that comes in pieces, one token each."""
    writer = _Writer(0, MarkedReader(HERMES, TOOLS, THINK), StopText(stops), single)
    events: list[Event] = []
    for number, text in enumerate(texts):
        events += writer.push(text, Scored(number, -1.0), True)
        if writer.done:
            return events + list(writer.end("eos", None))
    return events + list(writer.end(reason, None))  # type: ignore[arg-type]


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Spoke))


def test_stop_string_across_tokens_ends_the_text_before_it() -> None:
    events = told(["one t", "wo th", "ree"], ("two three",))
    assert said(events) == "one "
    assert events[-1] == Finished(0, "stop_string", "two three")


def test_held_back_text_comes_out_before_a_call_and_at_the_end() -> None:
    events = told(["a ST", CALL, " b S"], ("STOP",))
    kinds = [type(event) for event in events if not (isinstance(event, Spoke) and not event.text)]
    assert kinds[-1] is Finished and kinds.count(CallBegan) == 1
    assert said(events) == "a STb S"
    first_call = next(number for number, event in enumerate(events) if isinstance(event, CallBegan))
    assert said(events[:first_call]) == "a ST"


def test_stop_string_within_a_call_or_a_thought_is_none() -> None:
    events = told(["<think>now</think>", CALL, "x now y"], ("now",))
    assert any(isinstance(event, CallEnded) for event in events)
    assert [event.text for event in events if isinstance(event, Reasoned)] == ["now"]
    assert said(events) == "x " and events[-1] == Finished(0, "stop_string", "now")


@given(st.text("abx", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.integers(1, 4))
def test_stop_text_is_the_text_up_to_the_first_complete_stop(text: str, stops: list[str], cut: int) -> None:
    def read(size: int) -> tuple[str, str | None]:
        finder = StopText(stops)
        pieces = [finder.push(text[start : start + size]) for start in range(0, len(text), size)]
        return "".join(pieces) + finder.end(), finder.found

    by_hand = next(
        (
            (text[: end - len(stop)], stop)
            for end in range(1, len(text) + 1)
            for stop in sorted(stops, key=len, reverse=True)
            if text[:end].endswith(stop)
        ),
        (text, None),
    )
    assert read(cut) == read(1) == by_hand


def test_one_call_is_enough_where_parallel_ones_are_not_wanted() -> None:
    for pieces in ([CALL + CALL], list(CALL + CALL)):
        events = told(pieces, single=True)
        assert sum(isinstance(event, CallBegan) for event in events) == 1
        assert events[-1] == Finished(0, "tools")


def test_reasons_are_honest() -> None:
    assert told([CALL])[-1] == Finished(0, "tools")
    assert told([CALL], reason="length")[-1] == Finished(0, "length")
    cut = told(['<tool_call>{"name": "now", "arguments": {"a'], reason="length")
    assert cut[-1] == Finished(0, "length") and not any(isinstance(event, CallEnded) for event in cut)
    assert "".join(event.fragment for event in cut if isinstance(event, CallArguments)) == '{"a'
    assert told(["text"])[-1] == Finished(0, "eos")


def test_log_probabilities_of_thoughts_and_calls_are_not_those_of_the_text() -> None:
    events = told(["<think>", "a", "b", "</think>", "x", "y", CALL, "z"])
    tokens = [scored.token for event in events if isinstance(event, Spoke) for scored in event.tokens]
    assert tokens == [4, 5, 7]


def test_tokens_of_reasoning_are_counted() -> None:
    writer = _Writer(0, MarkedReader(None, (), THINK), StopText(()))
    for text in ("<think>", "a", "", "b", "</think>", "x"):
        list(writer.push(text, None, True))
    assert (writer.tokens, writer.thought) == (6, 4)


@pytest.fixture(scope="module")
def unhurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A token takes 20 ms."""
    live = LiveServer(slow, models=[str(tiny_model(tmp_path_factory.mktemp("unhurried") / "tiny", context=100_000))])
    yield live
    live.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_an_answer_with_an_error(
    unhurried: LiveServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    client = openai.OpenAI(base_url=f"{unhurried.url}/v1", api_key="none", max_retries=0, timeout=60)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 90_000}
    assert client.chat.completions.create(**{**asked, "max_tokens": 2}).usage  # opens the model
    with monkeypatch.context() as patch:
        patch.setattr(unhurried.service, "settings", unhurried.service.settings.model_copy(update={"deadline": 1.5}))
        begun = time.monotonic()
        with pytest.raises(openai.APIError, match="longer than this server allows"):
            for _ in client.chat.completions.create(**asked, stream=stream, extra_body={"ignore_eos": True}):
                assert time.monotonic() - begun < 60, "half an hour is far"
    unhurried.settle()
    assert client.chat.completions.create(**{**asked, "max_tokens": 2}).usage


def test_an_answer_that_ends_here_is_ended_at_the_engine(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    end = Completion.end
    monkeypatch.setattr(Completion, "end", lambda self, index: (ended.append(index), end(self, index)))
    tool = {"type": "function", "function": {"name": "now"}}  # where calls are read, stop strings are found here
    asked = {
        "model": "tiny", "messages": [{"role": "user", "content": "x"}], "tools": [tool], "n": 6, "max_tokens": 300,
        "stop": ["e"], "ignore_eos": True, "seed": 1,
    }  # fmt: skip
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60).json()
    stopped = [choice["index"] for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert sorted(ended) == stopped and len(stopped) > 1
    server.settle()
