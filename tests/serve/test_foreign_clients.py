"""Requests as other people's programs send them, byte for byte in what matters, and what they read from the answers."""

import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import LiveServer

from cadran.serve.closed_schema import closed_grammar
from cadran.serve.tools.told_arguments import told_arguments

PERSON: dict[str, Any] = {
    "description": "A person",
    "properties": {
        "name": {"maxLength": 4, "title": "Name", "type": "string"},
        "age": {"maximum": 100, "minimum": 0, "title": "Age", "type": "integer"},
    },
    "required": ["name", "age"],
    "title": "P",
    "type": "object",
}
"""As pydantic writes a class with two fields: nothing says that there are no further ones."""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather",
        "parameters": {
            "properties": {"city": {"title": "City", "type": "string"}},
            "required": ["city"],
            "title": "weather_args",
            "type": "object",
            "additionalProperties": False,
        },
        "strict": True,
    },
}


def _post(server: LiveServer, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60, headers={"authorization": "Bearer none"})
    assert answer.status_code == status, answer.text
    return answer.json()


def _is_a_person(text: str) -> None:
    content = json.loads(text)
    assert set(content) == {"name", "age"} and len(content["name"]) <= 4 and 0 <= content["age"] <= 100


@pytest.mark.parametrize("name", ["instructor", "llm"])
def test_a_schema_that_lists_its_fields_has_no_others_in_chat(server: LiveServer, name: str) -> None:
    named = {"name": "P", "schema": PERSON} if name == "instructor" else {"name": "output", "schema": PERSON}
    body = {
        "messages": [{"role": "user", "content": "A person"}],
        "model": "tiny",
        "max_tokens": 90,
        "response_format": {"type": "json_schema", "json_schema": named},
        "stream": False,
    }
    (choice,) = _post(server, "/v1/chat/completions", body)["choices"]
    assert choice["finish_reason"] == "stop"
    _is_a_person(choice["message"]["content"])


@pytest.mark.parametrize("tools", [[], [WEATHER]])
def test_a_schema_that_lists_its_fields_has_no_others_in_ollama(server: LiveServer, tools: list[Any]) -> None:
    """As langchain-ollama and llama-index send it."""
    body = {
        "model": "tiny",
        "stream": False,
        "options": {"num_predict": 90, "temperature": 0.75},
        "format": PERSON,
        "messages": [{"role": "user", "content": "A person"}],
        "tools": tools,
    }
    answer = _post(server, "/api/chat", body)
    assert answer["done_reason"] == "stop"
    if not answer["message"].get("tool_calls"):
        _is_a_person(answer["message"]["content"])


def _closed(schema: Any) -> Any:
    found = closed_grammar({"json_schema": schema})
    assert found is not None and set(found) == {"json_schema"}
    return found["json_schema"]


def test_objects_within_objects_are_closed() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {"one": inner, "many": {"type": "array", "items": inner}, "that": {"$ref": "#/$defs/inner"}},
        "$defs": {"inner": inner, "either": {"anyOf": [inner, {"type": "null"}]}},
    }
    closed = {**inner, "additionalProperties": False}
    assert _closed(schema) == {
        "type": "object",
        "properties": {"one": closed, "many": {"type": "array", "items": closed}, "that": {"$ref": "#/$defs/inner"}},
        "$defs": {"inner": closed, "either": {"anyOf": [closed, {"type": "null"}]}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}}, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": {}}, "minProperties": 2},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]},
        {"properties": {"a": {}}, "$ref": "#/$defs/b", "$defs": {"b": {"properties": {"b": {}}}}},
        {"properties": {"a": {"not": {"properties": {"b": {}}}}}},
        {"properties": 1, "required": 2, "items": 3, "anyOf": 4, "$defs": 5},
        True,
        "{}",
    ],
)
def test_a_schema_that_wants_further_properties_or_puts_objects_together_stays(schema: Any) -> None:
    assert _closed(schema) == schema


def test_properties_called_like_words_of_a_schema_are_properties() -> None:
    schema = {"type": "object", "properties": {"properties": {"type": "string"}, "allOf": {"type": "string"}}}
    assert _closed(schema) == {**schema, "additionalProperties": False}
    assert closed_grammar(None) is None and closed_grammar({"regex": "a"}) == {"regex": "a"}


def test_a_schema_nested_without_end_is_left_to_the_grammars_limit(server: LiveServer) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": False, "format": schema}
    assert "nothing" not in _post(server, "/api/chat", body, 400)["error"]
    for _ in range(20_000):
        schema = {"properties": {"a": schema}}
    assert _closed(schema) is schema


CUT = [
    '{"city": "Par', '{"city', '{"city": ', "{", "", "null", "[1]", "no JSON", '{"city": "Paris"}{"city": "Oslo"}',
    "[" * 100_000, '{"a":' * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("arguments", [*CUT, None])
def test_a_call_that_was_cut_off_may_be_told_back_in_chat(server: LiveServer, arguments: str | None) -> None:
    """openai-agents sends the call as it came, and after it the complaint of the tool that was not run."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    body = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "An error occurred while parsing tool arguments."},
        ],
        "model": "tiny",
        "max_tokens": 4,
        "stream": False,
    }
    (choice,) = _post(server, "/v1/chat/completions", body)["choices"]
    assert choice["finish_reason"] in ("length", "stop", "tool_calls")


@pytest.mark.parametrize("arguments", CUT)
def test_a_call_that_was_cut_off_may_be_told_back_in_ollama(server: LiveServer, arguments: str) -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]},
        {"role": "tool", "content": "the arguments are no JSON", "tool_name": "weather"},
    ]
    body = {"model": "tiny", "stream": False, "options": {"num_predict": 4}, "messages": messages}
    assert _post(server, "/api/chat", body)["done"] is True


@pytest.mark.parametrize("arguments", CUT)
def test_a_call_that_was_cut_off_may_be_told_back_in_responses(server: LiveServer, arguments: str) -> None:
    """openai-agents does so here, too."""
    body = {
        "input": [
            {"content": "Weather?", "role": "user"},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": arguments},
            {"type": "function_call_output", "call_id": "call_1", "output": "the arguments are no JSON"},
        ],
        "include": [],
        "max_output_tokens": 16,
        "model": "tiny",
    }
    assert _post(server, "/v1/responses", body)["status"] in ("completed", "incomplete")


def test_of_a_call_that_was_cut_off_the_whole_arguments_are_kept() -> None:
    assert told_arguments('{"a": [1, {"b": "é"}], "c": "d", "e": "f') == {"a": [1, {"b": "é"}], "c": "d"}
    assert told_arguments('{"a": 1, "b": 12') == {"a": 1}
    assert told_arguments('{"a": 1}') == {"a": 1}
    assert [told_arguments(text) for text in CUT[:8]] == [{}] * 8


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=4) | st.lists(st.booleans(), max_size=2)),
    st.integers(0, 60),
)
def test_the_beginning_of_an_object_has_no_argument_that_the_object_has_not(whole: dict[str, Any], end: int) -> None:
    text = json.dumps(whole, ensure_ascii=False)
    told = told_arguments(text[:end])
    assert all(whole[key] == value for key, value in told.items())
    assert told_arguments(text) == whole


def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_programs_look_for(server: LiveServer) -> None:
    """litellm and what is built on it know the case by these words alone, whatever the code."""
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 900}], "max_tokens": 12}
    told = _post(server, "/v1/chat/completions", body, 400)["error"]
    assert "this model's maximum context length is 512 tokens" in told["message"]
    assert told["code"] == "context_length_exceeded" and told["type"] == "invalid_request_error"
    told = _post(server, "/v1/messages", body, 400)["error"]
    assert re.match(r"prompt is too long: \D*4\d\d\d tokens \D* 512 tokens", told["message"])
