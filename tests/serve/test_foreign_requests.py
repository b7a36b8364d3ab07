"""Requests as programs written in JavaScript send them, shortened in their texts only, and what they read."""

import json
from typing import Any

import httpx
import pytest
from live import LiveServer

ANTHROPIC = {"anthropic-version": "2026-10-21", "authorization": "Bearer none", "user-agent": "Anthropic/JS 1.12.0"}


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"name": name, "description": name, "parameters": schema}


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    told = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in told if data != "[DONE]"]


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/v1/models/tiny", 200), ("/v1/models/nope", 404)])
def test_the_anthropic_package_finds_the_name_of_its_request(server: LiveServer, path: str, status: int) -> None:
    answer = httpx.get(server.url + path, headers=ANTHROPIC)
    assert answer.status_code == status
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert "request-id" not in httpx.get(server.url + path).headers


def test_a_request_of_anthropic_is_named_once(server: LiveServer) -> None:
    body = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "Say hello."}]}
    answer = httpx.post(server.url + "/v1/messages", json=body, headers=ANTHROPIC, timeout=60)
    assert answer.status_code == 200
    assert answer.headers.get_list("request-id") == [answer.headers["x-request-id"]]


@pytest.mark.parametrize("program", ["cn", "opencode"])
def test_terminal_programs_stream_a_chat_with_tools(server: LiveServer, program: str) -> None:
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": '"Say hello"'}],
        "stream": True,
        "tools": [{"type": "function", "function": _tool("Read", filepath={"type": "string"})}],
        "stream_options": {"include_usage": True},
    }
    body |= {"tool_choice": "auto", "max_tokens": 8} if program == "opencode" else {"max_tokens": 8}
    events = _events(httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60))
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] in ("length", "stop")
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] <= 8


def test_codex_streams_a_response_with_what_it_tells_of_itself(server: LiveServer) -> None:
    def said(role: str, text: str) -> dict[str, Any]:
        return {
            "type": "message", "id": f"msg_{role}", "role": role, "content": [{"type": "input_text", "text": text}]
        }  # fmt: skip

    body = {
        "model": "tiny",
        "stream": True,
        "input": [said("developer", "You are."), said("user", "<cwd>/work</cwd>"), said("user", "Say hello")],
        "tools": [{"type": "function", "strict": False, **_tool("exec_command", cmd={"type": "string"})}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a20520-f7a7-7cc3-bf3a-f1eb85c1b4a1",
        "client_metadata": {"turn_id": "01a2", "x-codex-window-id": "01a2:0"},
        "max_output_tokens": 8,
    }
    events = _events(httpx.post(server.url + "/v1/responses", json=body, timeout=60))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    last = events[-1]
    assert last["type"] in ("response.completed", "response.incomplete")
    assert last["response"]["usage"]["output_tokens"] <= 8 and last["response"]["store"] is False


def test_an_answer_is_told_back_by_its_reference(server: LiveServer) -> None:
    """As the ``ai`` package goes on with a conversation over ``/v1/responses``."""
    first = {"model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}
    made = httpx.post(server.url + "/v1/responses", json={**first, "max_output_tokens": 4}, timeout=60).json()
    reference = {"type": "item_reference", "id": made["output"][0]["id"]}
    more = {"role": "user", "content": [{"type": "input_text", "text": "more"}]}
    body = {"model": "tiny", "input": [*first["input"], reference, more], "max_output_tokens": 4}
    answer = httpx.post(server.url + "/v1/responses", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] > made["usage"]["input_tokens"] + 4
