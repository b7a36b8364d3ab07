"""The translator of responses: its events are such that the accumulator of the ``openai`` package accepts them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

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
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.openai.responses_answer import ResponseEvents, ResponseHead, Wire, response_id_of

HEAD: dict[str, Any] = {"model": "tiny", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
BEGIN: list[Event] = [Admitted(7), Prefilled(3)]
USED = Used(prompt_tokens=7, cached_tokens=3, generated_tokens=5, reasoning_tokens=2)


def told(events: Sequence[Event], summary: bool = False) -> list[Wire]:
    head = ResponseHead("resp_" + "a" * 24, 1, HEAD, lambda: 9.0, summary)
    translator = ResponseEvents(head)
    wires = [wire for event in (*BEGIN, *events) for wire in translator.feed(event)]
    assert json.loads(json.dumps(wires)) == wires
    return wires


def accumulated(wires: Sequence[Wire]) -> ResponseStreamState[Any]:
    """What the client's own accumulator makes of it; it raises where a rule is broken."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for wire in wires:
        state.handle_event(construct_type(type_=ResponseStreamEvent, value=wire))
    return state


def checked(wires: Sequence[Wire]) -> dict[str, Any]:
    """The final response, after the rules that hold for every stream."""
    accumulated(wires)
    assert [wire["sequence_number"] for wire in wires] == list(range(len(wires)))
    assert [wire["type"] for wire in wires[:2]] == ["response.created", "response.in_progress"]
    added = [wire["item"] for wire in wires if wire["type"] == "response.output_item.added"]
    done = [wire["item"] for wire in wires if wire["type"] == "response.output_item.done"]
    final: dict[str, Any] = wires[-1]["response"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert done == final["output"]
    for wire in wires:
        if "item_id" in wire:
            assert added[wire["output_index"]]["id"] == wire["item_id"]
    return final


def test_reasoning_text_and_two_calls_are_four_items_in_order() -> None:
    wires = told([
        Reasoned(0, "hm"), Reasoned(0, "m"), Spoke(0, "Voilà"), CallBegan(0, 0, "1", "f"), CallArguments(0, 0, '{"a"'),
        CallArguments(0, 0, ": 1}"), CallEnded(0, 0), CallBegan(0, 1, "2", "g"), CallEnded(0, 1),
        Finished(0, "tools"), USED,
    ])  # fmt: skip
    final = checked(wires)
    reasoning, message, call, empty = final["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hmm"}] and reasoning["summary"] == []
    assert message["content"][0]["text"] == "Voilà"
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_1", "f", '{"a": 1}')
    assert call["id"].startswith("fc_") and empty["arguments"] == "{}"
    assert final["status"] == "completed" and wires[-1]["type"] == "response.completed"
    assert final["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert final["usage"]["input_tokens_details"] == {"cached_tokens": 3, "cache_write_tokens": 4}
    fragments = [wire["delta"] for wire in wires if wire["type"] == "response.function_call_arguments.delta"]
    assert "".join(fragments) == '{"a": 1}'
    assert len({item["id"] for item in final["output"]}) == 4
    assert {response_id_of(item["id"]) for item in final["output"]} == {final["id"]}


def test_reasoning_is_told_as_a_summary_when_one_was_asked_for() -> None:
    wires = told([Reasoned(0, "hm"), Spoke(0, "x"), Finished(0, "eos"), USED], summary=True)
    final = checked(wires)
    assert final["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert [wire["type"] for wire in wires if "reasoning" in wire["type"]] == [
        "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done", "response.reasoning_summary_part.done",
    ]  # fmt: skip


def test_white_space_between_items_is_no_message() -> None:
    final = checked(told([
        Reasoned(0, "hm"), Spoke(0, "\n\n"), CallBegan(0, 0, "1", "f"), CallEnded(0, 0), Spoke(0, "\n"),
        Finished(0, "tools"), USED,
    ]))  # fmt: skip
    assert [item["type"] for item in final["output"]] == ["reasoning", "function_call"]
    final = checked(told([Reasoned(0, "hm"), Spoke(0, "\n"), Spoke(0, "x"), Finished(0, "eos"), USED]))
    assert final["output"][1]["content"][0]["text"] == "\nx"


@pytest.mark.parametrize("text", ["", "\n"])
def test_answer_without_words_is_still_a_message(text: str) -> None:
    final = checked(told([Spoke(0, text), Finished(0, "eos"), USED]))
    assert [item["content"][0]["text"] for item in final["output"]] == [text]


def test_call_that_was_cut_is_incomplete_and_its_arguments_are_never_done() -> None:
    wires = told([CallBegan(0, 0, "1", "f"), CallArguments(0, 0, '{"a'), Finished(0, "length"), USED])
    final = checked(wires)
    assert final["status"] == "incomplete" and final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert wires[-1]["type"] == "response.incomplete"
    assert final["output"][0]["status"] == "incomplete" and final["output"][0]["arguments"] == '{"a'
    assert "response.function_call_arguments.done" not in {wire["type"] for wire in wires}


def test_failure_ends_the_items_and_names_the_error() -> None:
    wires = told([Spoke(0, "x"), Failed(ApiError("internal", "broken"))])
    final = checked(wires)
    assert wires[-1]["type"] == "response.failed" and final["status"] == "failed"
    assert final["error"] == {"code": "server_error", "message": "broken"}


def test_exchange_that_was_closed_is_a_cancelled_response() -> None:
    final = checked(told([Spoke(0, "x"), USED]))
    assert final["status"] == "cancelled" and final["incomplete_details"] is None
    assert final["output"][0]["status"] == "incomplete"


TEXT = st.text(st.sampled_from("aé😀\u2028 \n"), max_size=4)
CALL = st.lists(st.sampled_from(['{"a": 1', "}", " "]), max_size=3)
STEP = st.one_of(
    TEXT.map(lambda text: ("said", text)),
    TEXT.map(lambda text: ("thought", text)),
    CALL.map(lambda call: ("call", call)),
)
REASON = st.sampled_from(["eos", "stop_string", "length", "context", "tools", "cancelled", None])


@settings(deadline=None, max_examples=150)
@given(st.lists(STEP, max_size=8), REASON, st.booleans(), st.booleans())
def test_every_sequence_of_events_is_accepted(steps: list[Any], reason: Any, summary: bool, hang: bool) -> None:
    events: list[Event] = []
    calls = 0
    for kind, content in steps:
        if kind == "said":
            events.append(Spoke(0, content))
        elif kind == "thought":
            events.append(Reasoned(0, content))
        else:
            events.append(CallBegan(0, calls, str(calls), "f"))
            events += [CallArguments(0, calls, fragment) for fragment in content]
            events.append(CallEnded(0, calls))
            calls += 1
    if hang and events and isinstance(events[-1], CallEnded):
        events.pop()
    events += [] if reason is None else [Finished(0, reason)]
    wires = told([*events, USED], summary)
    final = checked(wires)
    spoken = "".join(event.text for event in events if isinstance(event, Spoke))
    texts = [item["content"][0]["text"] for item in final["output"] if item["type"] == "message"]
    assert "".join("".join(texts).split()) == "".join(spoken.split())
    deltas = "".join(wire["delta"] for wire in wires if wire["type"] == "response.output_text.delta")
    assert deltas == "".join(texts)
    assert sum(item["type"] == "function_call" for item in final["output"]) == calls
    thought = "".join(event.text for event in events if isinstance(event, Reasoned))
    told_thought = "".join(wire["delta"] for wire in wires if "reasoning" in wire["type"] and "delta" in wire)
    assert told_thought == thought
