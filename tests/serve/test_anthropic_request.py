"""What a body of the Messages API means, and that nothing a client writes breaks the translation."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cadran.serve.anthropic.errors import refuse
from cadran.serve.anthropic.messages_request import MessagesRequest
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest, ToolChoice

USER = {"role": "user", "content": "Hallo"}
ADD = {"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {"a": {}}}}


def asked(**body: Any) -> GenerateRequest:
    return MessagesRequest.model_validate({"model": "tiny", "messages": [USER], **body}).asked()


def refused(**body: Any) -> str:
    with pytest.raises((ApiError, ValidationError)) as caught:
        asked(**body)
    return str(caught.value)


@pytest.mark.usefixtures("fresh_seeds")
def test_defaults_are_those_of_the_api() -> None:
    request = asked()
    assert request.max_tokens == 4096 and request.thinking is False and request.tool_choice == ToolChoice()
    assert request.sampling["temperature"] == 1.0 and request.sampling["top_p"] == 1.0
    assert asked().sampling["seed"] != asked().sampling["seed"]


def test_fields_arrive() -> None:
    request = asked(
        max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["###", ""], seed=5, metadata={"user_id": "u"}
    )
    assert request.max_tokens == 7 and request.stop == ("###",)
    assert request.sampling == {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 5}


@pytest.mark.parametrize(
    "system", ["A\n\nB", [{"type": "text", "text": "A", "cache_control": {}}, {"type": "text", "text": "B"}]]
)
def test_system_is_a_string_or_blocks(system: Any) -> None:
    assert asked(system=system).messages == (
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "Hallo"},
    )


def test_system_may_also_be_a_message() -> None:
    request = asked(system="A", messages=[{"role": "system", "content": "B"}, USER])
    assert request.messages is not None and request.messages[0] == {"role": "system", "content": "A\n\nB"}


def test_turns_of_the_same_role_are_merged_and_the_last_of_the_assistant_is_continued() -> None:
    request = asked(
        messages=[
            USER,
            {"role": "user", "content": [{"type": "text", "text": "Wer da?"}]},
            {"role": "assistant", "content": "Ich"},
            {"role": "assistant", "content": [{"type": "text", "text": " bin"}]},
        ]
    )
    assert request.messages == ({"role": "user", "content": "Hallo\n\nWer da?"},) and request.prefill == "Ich bin"


def test_calls_and_their_results_become_turns() -> None:
    request = asked(
        tools=[ADD],
        messages=[
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "rechnen", "signature": "s"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Moment."},
                    {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
                    {"type": "tool_use", "id": "toolu_2", "name": "add", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "und?"},
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "a fehlt"}, {"type": "text", "text": "!"}],
                    },
                ],
            },
        ],
    )
    assert request.messages is not None
    _, call, one, two, more = request.messages
    assert call["reasoning_content"] == "rechnen" and call["content"] == "Moment."
    assert [made["function"] for made in call["tool_calls"]] == [
        {"name": "add", "arguments": {"a": 1}},
        {"name": "add", "arguments": {}},
    ]
    assert one == {"role": "tool", "tool_call_id": "toolu_1", "content": "1", "name": "add"}
    assert two["content"] == "Error: a fehlt\n\n!" and more == {"role": "user", "content": "und?"}
    assert request.tools[0].parameters == ADD["input_schema"]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
            "T\n\nD",
        ),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "D"}]}}, "D"),
        ({"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "w6k="}}, "é"),
        (
            {"type": "search_result", "source": "S", "title": "T", "content": [{"type": "text", "text": "X"}]},
            "T\n\nS\n\nX",
        ),
    ],
)
def test_documents_of_text_are_read(block: dict[str, Any], text: str) -> None:
    assert asked(messages=[{"role": "user", "content": [block]}]).messages == ({"role": "user", "content": text},)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
        {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "/w=="}},
        {"type": "text"},
        {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
        {"type": "tool_use", "id": "1", "name": "add", "input": {}},
        {"type": "tool_result", "content": "no id"},
        {"type": "text", "text": "\ud800"},
        {"text": "no type"},
    ],
)
def test_block_that_cannot_be_read_is_refused_by_its_place(block: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, block]}])
    assert caught.value.kind == "invalid" and "messages.0.content.1" in caught.value.message


def test_tools_of_anthropics_servers_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cadran.serve.anthropic.tools"):
        request = asked(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, ADD])
    told = [record for record in caplog.records if record.name == "cadran.serve.anthropic.tools"]
    assert [tool.name for tool in request.tools] == ["add"] and len(told) == 1


def test_tool_choice() -> None:
    assert asked(tools=[ADD], tool_choice={"type": "any"}).tool_choice == ToolChoice("required")
    named = asked(tools=[ADD], tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True})
    assert named.tool_choice == ToolChoice("required", ("add",)) and not named.parallel_tools
    assert asked(tools=[ADD], tool_choice={"type": "none"}).tool_choice == ToolChoice("none")
    assert asked(tools=[ADD], tool_choice={"type": "auto"}).parallel_tools
    assert "'mul'" in refused(tools=[ADD], tool_choice={"type": "tool", "name": "mul"})
    assert "no tools" in refused(tool_choice={"type": "any"})
    assert "two tools" in refused(tools=[ADD, ADD])
    assert "input_schema" in refused(tools=[{"name": "add"}])


@pytest.mark.parametrize(
    ("thinking", "wanted", "shown"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True, "whole"),
        ({"type": "disabled"}, False, "hidden"),
        ({"type": "adaptive", "display": "omitted"}, None, "omitted"),
        ({"type": "between_tools"}, None, "whole"),
        (None, False, "hidden"),
    ],
)
def test_thinking(thinking: Any, wanted: bool | None, shown: str) -> None:
    body = MessagesRequest.model_validate({"messages": [USER], "thinking": thinking})
    assert body.asked().thinking is wanted and body.shown == shown


def test_output_config() -> None:
    schema = {"type": "object", "properties": {"é": {"type": "string"}}}
    request = asked(output_config={"effort": "max", "format": {"type": "json_schema", "schema": schema}})
    assert request.grammar == {"json_schema": schema} and request.template_variables == {"reasoning_effort": "high"}
    assert asked(output_format={"type": "json_schema", "schema": schema}).grammar == {"json_schema": schema}
    assert "schema" in refused(output_config={"format": {"type": "json_schema"}})
    assert "json_schema" in refused(output_config={"format": {"type": "yaml"}})


def test_conversations_that_cannot_be_answered_are_refused() -> None:
    assert "nothing before" in refused(messages=[{"role": "assistant", "content": "Ich"}])
    calling = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "add", "input": {}}]}
    assert "results" in refused(messages=[USER, calling])
    assert refused(messages=[]) and refused(messages=[{"role": "robot", "content": ""}]) and refused(max_tokens=-1)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [0] * 200_000},
        {"messages": [{"role": "user", "content": [0] * 200_000}]},
        {"tools": [{}] * 2000},
        {"stop_sequences": ["a"] * 2000},
        {"stop_sequences": ["a" * 2000]},
        {"structured_outputs": {"choice": [0] * 200_000}},
    ],
)
def test_complaint_about_very_much_is_short(body: dict[str, Any]) -> None:
    with pytest.raises((ApiError, ValidationError)) as caught:
        asked(**body)
    assert not isinstance(caught.value, ValidationError) or caught.value.error_count() < 4


def test_threads_are_refused_so_that_clients_send_the_whole_conversation() -> None:
    with pytest.raises(ApiError) as caught:
        asked(thread={"type": "create"})
    told = json.loads(bytes(refuse(caught.value, "req_1").body))["error"]
    assert told["details"] == {"error_code": "thread_unsupported_request", "unsupported": []}


def test_error_body_names_the_field_once_and_its_header_the_request() -> None:
    answer = refuse(ApiError("invalid", "only text is made here", param="modalities"), "req_1")
    assert answer.status_code == 400 and answer.headers["request-id"] == "req_1"
    assert json.loads(bytes(answer.body)) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "modalities: only text is made here"},
        "request_id": "req_1",
    }


WORDS = st.sampled_from(
    ["", "text", "tool_use", "tool_result", "thinking", "document", "image", "user", "assistant", "system", "base64",
     "content", "any", "tool", "auto", "enabled", "json_schema", "object", "text/plain", "add", "w6k=", "\ud800",
     "é\u2028"]
)  # fmt: skip
FIELDS = st.sampled_from(
    ["type", "text", "source", "data", "media_type", "content", "id", "name", "input", "tool_use_id", "is_error",
     "role", "thinking", "title", "input_schema", "schema", "format", "effort", "display", "disable_parallel_tool_use"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=4)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=5), max_leaves=20
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "document", "search_result", "image"])},
    optional={
        name: JSON | WORDS | st.just({})
        for name in ("text", "source", "content", "id", "name", "input", "tool_use_id", "is_error", "thinking", "title")
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(max_size=5) | st.lists(BLOCKS, max_size=3),
        }
    ),
    max_size=4,
)
BODIES = st.fixed_dictionaries(
    {"messages": MESSAGES | JSON},
    optional=dict.fromkeys(
        ["model", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p", "top_k", "tools",
         "tool_choice", "thinking", "output_config", "output_format", "seed", "structured_outputs", "metadata"],
        JSON,
    ),
)  # fmt: skip


NAMES = st.sampled_from(["add", "mul", "été"])
SAYING = st.text(max_size=5) | st.builds(lambda text: [{"type": "text", "text": text}], st.text(max_size=5))
TALK = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": SAYING | st.lists(BLOCKS, max_size=1)}
    ),
    max_size=3,
).map(lambda turns: [USER, *turns])
SCHEMAS = st.dictionaries(FIELDS, JSON, max_size=2).map(lambda schema: {**schema, "type": "object"})
PLAUSIBLE = st.fixed_dictionaries(
    {"messages": TALK},
    optional={
        "system": SAYING,
        "max_tokens": st.integers(0, 10**30),
        "temperature": st.floats(0, 1),
        "top_k": st.integers(),
        "stop_sequences": st.lists(st.text(max_size=3), max_size=3),
        "tools": st.lists(
            st.fixed_dictionaries({"name": NAMES, "input_schema": SCHEMAS}, optional={"strict": st.booleans()}),
            max_size=2,
            unique_by=lambda tool: tool["name"],
        ),
        "tool_choice": st.sampled_from([{"type": "auto"}, {"type": "none"}, {"type": "tool", "name": "add"}]),
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}]),
        "output_config": st.builds(lambda schema: {"format": {"type": "json_schema", "schema": schema}}, SCHEMAS),
        "metadata": JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(PLAUSIBLE, PLAUSIBLE, BODIES, JSON))
def test_any_body_is_a_request_or_a_refusal(body: Any) -> None:
    try:
        request = MessagesRequest.model_validate(body).asked()
    except (ApiError, ValidationError):
        return
    assert request.messages
    json.dumps(
        [request.messages, request.prefill, [tool.to_template() for tool in request.tools]], ensure_ascii=False
    ).encode()
