"""Calls of tools through responses, forced by grammar, and the conversation that goes on with their outputs."""

import json
from typing import Any

import openai
import pytest
from live import LiveServer

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["Lyon", "été"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}
ASKED: dict[str, Any] = {"model": "tiny", "input": "Il pleut ?", "tools": [TOOL], "max_output_tokens": 150}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
    ],
)
def test_call_that_is_demanded_is_made_plain_and_streamed(client: openai.OpenAI, choice: Any) -> None:
    asked = {**ASKED, "tool_choice": choice, "parallel_tool_calls": False, "extra_body": {"seed": 4}}
    plain = client.responses.create(**asked)
    (call,) = (item for item in plain.output if item.type == "function_call")
    assert plain.status == "completed" and call.name == "weather" and call.status == "completed"
    assert json.loads(call.arguments)["place"] in ("Lyon", "été")
    assert call.call_id.startswith("call_") and call.id and call.id.startswith("fc_")
    with client.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    (streamed,) = (item for item in final.output if item.type == "function_call")
    assert "".join(deltas) == streamed.arguments == call.arguments


def test_conversation_goes_on_with_the_output_of_a_call(client: openai.OpenAI) -> None:
    first = client.responses.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    (call,) = (item for item in first.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "pluie"}
    said = {"structured_outputs": {"choice": ["oui"]}}
    second = client.responses.create(
        model="tiny", input=[output], previous_response_id=first.id, tools=[TOOL], tool_choice="none", extra_body=said
    )
    assert second.output_text == "oui"
