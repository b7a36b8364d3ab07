"""What the items of a request mean to a chat template."""

from typing import Any

import pytest

from cadran.serve.api_error import ApiError
from cadran.serve.openai.responses_items import messages_of, read_items


def items(*given: dict[str, Any]) -> list[dict[str, Any]]:
    numbers = iter(range(100))
    return read_items(given, lambda prefix: f"{prefix}_{next(numbers)}")


CALL = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a": {"b": "}"}}'}


def test_what_the_assistant_did_in_a_row_is_one_message() -> None:
    other = {**CALL, "call_id": "call_2", "arguments": ""}
    messages = messages_of(
        items(
            {"role": "user", "content": [{"type": "input_text", "text": "1 "}, {"type": "input_text", "text": "2"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Bon"}]},
            CALL,
            other,
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "3"}]},
            {"type": "function_call_output", "call_id": "call_1", "output": "4"},
            {"role": "assistant", "content": "7"},
        )
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert messages[0]["content"] == "1 2"
    turn = messages[1]
    assert (turn["content"], turn["reasoning_content"]) == ("Bon", "hm")
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == [{"a": {"b": "}"}}, {}]
    assert messages[2] == {"role": "tool", "tool_call_id": "call_2", "name": "add", "content": "3"}


def test_instructions_and_system_messages_at_the_beginning_are_one() -> None:
    given = items(
        {"role": "developer", "content": "B"},
        {"role": "system", "content": "C"},
        {"role": "user", "content": "x"},
        {"role": "system", "content": "D"},
    )
    messages = messages_of(given, "A")
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "A\n\nB\n\nC"), ("user", "x"), ("system", "D"),
    ]  # fmt: skip


def test_call_that_was_cut_is_left_out_when_the_conversation_goes_on() -> None:
    cut = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a', "status": "incomplete"}
    assert messages_of([*items({"role": "user", "content": "x"}), cut])[1:] == []


def test_output_of_no_call_is_refused() -> None:
    with pytest.raises(ApiError, match="call_9"):
        messages_of(items(CALL, {"type": "function_call_output", "call_id": "call_9", "output": "x"}))


def test_text_is_one_message_of_the_user_and_only_known_fields_are_kept() -> None:
    (item,) = read_items("Ça va ?", lambda prefix: f"{prefix}_1")
    assert item["content"] == [{"type": "input_text", "text": "Ça va ?"}] and item["id"] == "msg_1"
    (kept,) = items({"role": "user", "content": "x", "id": "mine", "padding": "y" * 1000})
    assert kept["id"] == "mine" and "padding" not in kept
