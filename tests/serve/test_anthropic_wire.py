"""The bytes of the Messages API as programs without an SDK see them, and what Claude Code sends."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic_scripted import OPENING, USED, WHOLE, ScriptedServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import LiveServer
from tiny import tiny_model

from cadran.serve import answering
from cadran.serve.events import Admitted, Finished, Prefilled, Spoke, Used

HELLO = [{"role": "user", "content": "Hallo"}]
ASKED = {"model": "tiny", "max_tokens": 6, "messages": HELLO}


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    live = ScriptedServer(tiny, f"sqlite:///{tmp_path_factory.mktemp('scripted') / 'state.db'}")
    yield live
    live.close()


def records(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream; comments are passed over, anything else must be two lines and a blank one."""
    assert text.endswith("\n\n")
    found = []
    for record in text[:-2].split("\n\n"):
        if record.startswith(":"):
            continue
        first, second = record.split("\n")
        assert first.startswith("event: ") and second.startswith("data: ")
        found.append((first[7:], json.loads(second[6:])))
        assert found[-1][1]["type"] == first[7:]
    return found


def test_stream_has_named_events_and_ascii_alone(scripted: ScriptedServer) -> None:
    scripted.scripts[:] = [WHOLE]
    asked = {**ASKED, "stream": True, "thinking": {"type": "adaptive"}}
    answer = httpx.post(f"{scripted.url}/v1/messages?beta=true", json=asked, headers={"x-api-key": "any"})
    assert answer.headers["content-type"] == "text/event-stream" and answer.headers["cache-control"] == "no-cache"
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.content.isascii()
    told = records(answer.text)
    assert told[0][0] == "message_start" and told[0][1]["message"]["usage"]["input_tokens"] == 20
    assert told[1] == ("ping", {"type": "ping"}) and told[-1] == ("message_stop", {"type": "message_stop"})
    assert told[-2][1]["usage"]["output_tokens"] == 25
    opened = [record["content_block"] for kind, record in told if kind == "content_block_start"]
    assert [block["type"] for block in opened] == ["thinking", "text", "tool_use", "tool_use"]
    assert all(block["input"] == {} for block in opened[2:])


def test_waiting_is_bridged_by_comments_then_by_pings(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", 0.05)
    read, spoken = threading.Event(), threading.Event()
    script = [Admitted(3), read, Prefilled(0), spoken, Spoke(0, "a"), Finished(0, "eos"), Used(3, 0, 1)]
    scripted.scripts[:] = [script]
    text = ""
    with httpx.stream("POST", f"{scripted.url}/v1/messages", json={**ASKED, "stream": True}) as answer:
        for piece in answer.iter_text():
            text += piece
            if ": ping" in text:
                read.set()
            if text.count("event: ping\n") >= 3:  # one belongs to every message
                spoken.set()
    before, start, after = text.partition("event: message_start\n")
    assert start and before and set(before.split("\n\n")) == {": ping", ""}
    kinds = [kind for kind, _ in records(start + after)]
    assert kinds[0] == "message_start" and kinds[1:].count("ping") >= 3
    assert kinds[1 : kinds.index("content_block_start")] == ["ping"] * (kinds.index("content_block_start") - 1)


def test_errors_have_the_form_of_the_api(http: httpx.Client) -> None:
    bad: list[tuple[dict[str, Any], int, str]] = [
        ({"content": b"{"}, 400, "invalid_request_error"),
        ({"json": {"model": "tiny"}}, 400, "invalid_request_error"),
        ({"json": {**ASKED, "temperature": "hot"}}, 400, "invalid_request_error"),
        ({"json": {**ASKED, "compaction": {"type": "summarize"}}}, 400, "invalid_request_error"),
        ({"json": {**ASKED, "model": "gpt"}}, 404, "not_found_error"),
    ]
    for asked, status, type in bad:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = http.post(path, **asked, headers={"x-request-id": "mine", "content-type": "application/json"})
            assert answer.status_code == status, answer.text
            told = answer.json()
            assert told["type"] == "error" and told["error"]["type"] == type and told["error"]["message"]
            assert told["request_id"] == answer.headers["request-id"] == "mine"
    missing = http.post("/v1/messages/batches", json={})
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
    assert http.get("/v1/messages").status_code == 405


def test_probes_are_answered_quietly(http: httpx.Client) -> None:
    assert http.head("/").status_code == 200
    for path in ("/api/event_logging", "/api/event_logging/batch"):
        assert http.post(path, json={"events": [1]}).status_code == 204


@pytest.mark.parametrize("version", [None, "2023-06-01", "2026-10-21", "whatever"])
def test_any_version_and_beta_is_accepted(http: httpx.Client, version: str | None) -> None:
    headers = {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14", "authorization": "Bearer any"}
    if version is not None:
        headers["anthropic-version"] = version
    answer = http.post("/v1/messages?beta=true", json=ASKED, headers=headers)
    assert answer.status_code == 200 and answer.json()["type"] == "message"
    assert answer.headers["request-id"].startswith("req_")


TOOLS = [
    {
        "name": name,
        "description": f"{name} does something with a file. " * 3,
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "file_path": {"type": "string", "description": "absolute"},
                "limit": {"type": "number"},
                "edits": {"type": "array", "items": {"type": "object", "properties": {"old": {"type": "string"}}}},
            },
            "required": ["file_path"],
            "additionalProperties": False,
        },
    }
    for name in ("Task", "Bash", "Glob", "Grep", "Read", "Edit", "MultiEdit", "Write", "WebFetch", "TodoWrite")
]

CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-sonnet-4-5-20250929",
    "max_tokens": 32000,
    "temperature": 1,
    "stream": True,
    "metadata": {"user_id": "user_0_account__session_0"},
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cc_entrypoint=cli; cch=1a2b3;"},
        {"type": "text", "text": "You are a coding assistant.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "# Rules\nBe brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nContext.\n</system-reminder>\n"},
                {"type": "text", "text": "fix the test"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Read it first.", "signature": "c2ln"},
                {"type": "text", "text": "I'll look."},
                {"type": "tool_use", "id": "toolu_01", "name": "Read", "input": {"file_path": "/a.py"}},
                {"type": "tool_use", "id": "toolu_02", "name": "Bash", "input": {"file_path": "/b", "limit": 3}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "tool_use_id": "toolu_01",
                    "type": "tool_result",
                    "content": [
                        {"type": "text", "text": "     1\u2192def add(a, b):"},
                        {"type": "text", "text": "return"},
                    ],
                },
                {
                    "tool_use_id": "toolu_02",
                    "type": "tool_result",
                    "is_error": True,
                    "content": "<tool_use_error>no such file</tool_use_error>",
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "text", "text": "<system-reminder>Go on.</system-reminder>"},
            ],
        },
    ],
}
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14",
    "authorization": "Bearer any",
    "x-app": "cli",
    "x-stainless-lang": "js",
    "anthropic-dangerous-direct-browser-access": "true",
}


def test_claude_codes_turn_is_understood(scripted: ScriptedServer) -> None:
    scripted.scripts[:] = [WHOLE]
    answer = httpx.post(f"{scripted.url}/v1/messages?beta=true", json=CLAUDE_CODE, headers=HEADERS)
    told = records(answer.text)
    assert [kind for kind, _ in told][-1] == "message_stop"
    assert told[0][1]["message"]["usage"]["input_tokens"] == 20
    request = scripted.asked[-1]
    assert request.messages is not None and request.thinking is True and len(request.tools) == len(TOOLS)
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert request.messages[0]["content"] == "You are a coding assistant.\n\n# Rules\nBe brief."
    assert [message.get("name") for message in request.messages[3:5]] == ["Read", "Bash"]
    assert request.messages[4]["content"].startswith("Error: <tool_use_error>")


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model whose context holds what Claude Code sends, under the name that it asks for."""
    folder = tiny_model(tmp_path_factory.mktemp("roomy") / "roomy", context=16384)
    database = f"sqlite:///{tmp_path_factory.mktemp('roomy-state') / 'state.db'}"
    live = LiveServer(models=[str(folder)], alias={CLAUDE_CODE["model"]: "roomy"}, database=database)
    yield live
    live.close()


def test_claude_codes_turn_is_answered_and_counted(roomy: LiveServer) -> None:
    with httpx.Client(base_url=roomy.url, headers=HEADERS, timeout=60) as http:
        quota = http.post("/v1/messages?beta=true", json={**ASKED, "model": CLAUDE_CODE["model"], "max_tokens": 1})
        assert quota.status_code == 200
        counted = http.post("/v1/messages/count_tokens?beta=true", json=CLAUDE_CODE).json()["input_tokens"]
        told = records(http.post("/v1/messages?beta=true", json={**CLAUDE_CODE, "max_tokens": 24}).text)
        kinds = [kind for kind, _ in told]
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop", told[-1]
        for usage in (told[0][1]["message"]["usage"], told[-2][1]["usage"]):
            assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted
        billed = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=00000;"}
        next_one = {**CLAUDE_CODE, "system": [billed, *CLAUDE_CODE["system"][1:]], "max_tokens": 1, "stream": False}
        again = http.post("/v1/messages?beta=true", json=next_one).json()
        assert again["usage"]["cache_read_input_tokens"] > 0.9 * counted


def test_tools_are_counted(roomy: LiveServer) -> None:
    bare = {name: value for name, value in CLAUDE_CODE.items() if name != "tools"}
    with httpx.Client(base_url=roomy.url, headers=HEADERS, timeout=60) as http:
        counts = [http.post("/v1/messages/count_tokens", json=body).json() for body in (CLAUDE_CODE, bare)]
    assert counts[0]["input_tokens"] > counts[1]["input_tokens"] + 1000


def test_forced_call_of_the_real_engine_is_a_tool_use(roomy: LiveServer) -> None:
    schema = {
        "type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"],
        "additionalProperties": False,
    }  # fmt: skip
    asked = {
        "max_tokens": 200,
        "messages": HELLO,
        "tools": [{"name": "weather", "input_schema": schema}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "seed": 7,
    }
    with httpx.Client(base_url=roomy.url, timeout=60) as http:
        plain = http.post("/v1/messages", json=asked).json()
        told = records(http.post("/v1/messages", json={**asked, "stream": True}).text)
    assert plain["stop_reason"] == "tool_use", plain
    call = plain["content"][-1]
    assert call["type"] == "tool_use" and call["name"] == "weather" and call["input"]["unit"] in ("C", "F")
    fragments = [record["delta"].get("partial_json", "") for kind, record in told if kind == "content_block_delta"]
    assert json.loads("".join(fragments)) == call["input"]


def test_call_that_is_cut_anywhere_is_told_alike_in_both_ways(roomy: LiveServer) -> None:
    schema = {"type": "object", "properties": {"place": {"const": "M\u00fcnchen"}}, "required": ["place"]}
    asked = {
        "messages": HELLO,
        "tools": [{"name": "weather", "input_schema": schema}, {"name": "clock", "input_schema": schema}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "temperature": 0,
    }
    reasons, kinds = set(), set()
    with httpx.Client(base_url=roomy.url, timeout=60) as http:
        for limit in range(1, 80, 6):
            plain = http.post("/v1/messages", json={**asked, "max_tokens": limit}).json()
            told = records(http.post("/v1/messages", json={**asked, "max_tokens": limit, "stream": True}).text)
            shape = [block["type"] for block in plain["content"]]
            opened = [record["content_block"]["type"] for kind, record in told if kind == "content_block_start"]
            closed = sum(kind == "content_block_stop" for kind, _ in told)
            assert opened == shape and closed == len(opened)
            assert told[-2][1]["delta"]["stop_reason"] == plain["stop_reason"]
            assert told[-2][1]["usage"]["output_tokens"] == plain["usage"]["output_tokens"]
            assert all(isinstance(block["input"], dict) for block in plain["content"] if block["type"] == "tool_use")
            reasons.add(plain["stop_reason"])
            kinds |= set(shape)
    assert reasons == {"max_tokens", "tool_use"} and "tool_use" in kinds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("system", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice", "thinking",
          "output_config", "seed", "structured_outputs", "stream", "model")  # fmt: skip
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=9)}),
    max_size=3,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"messages": TURNS | JSON}, optional=dict.fromkeys(FIELDS, JSON)))
def test_no_body_is_answered_with_a_failure_of_the_server(http: httpx.Client, body: dict[str, Any]) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = http.post(path, json={**body, "max_tokens": 2})
        assert answer.status_code < 500, (answer.text, body)
        if answer.status_code >= 400:
            assert answer.json()["type"] == "error"


def test_lone_surrogates_and_numbers_that_are_none_are_refused(http: httpx.Client) -> None:
    for text in (
        '{"messages":[{"role":"user","content":"\\ud800"}]}',
        '{"messages":[{"role":"user","content":"a"}],"stop_sequences":["\\ud800"]}',
        '{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        '{"messages":[{"role":"user","content":"a"}],"tools":[{"name":"a","input_schema":{"title":"\\ud800"}}]}',
        "[" * 5000,
        "[" * 900 + "]" * 900,
    ):
        answer = http.post("/v1/messages", content=text.encode(), headers={"content-type": "application/json"})
        assert answer.status_code == 400, (text[:80], answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_answer_that_begins_late_still_names_its_tokens(scripted: ScriptedServer) -> None:
    scripted.scripts[:] = [[*OPENING[:1], 0.05, *OPENING[1:], Spoke(0, "a"), Finished(0, "eos"), USED]]
    told = records(httpx.post(f"{scripted.url}/v1/messages", json={**ASKED, "stream": True}).text)
    usage = told[0][1]["message"]["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == 30
