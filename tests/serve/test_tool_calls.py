"""Tool calls through the real ``openai`` package and the real engine: prescribed by grammar, or read from the text."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from live import LiveServer
from tiny import tiny_model

from cadran.serve.asked import GenerateRequest, Tool, ToolChoice

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Add?"}], "seed": 5}
ADD = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["€", 'a "b" {c}']},
        "deep": {
            "type": "object",
            "properties": {"flag": {"type": "boolean"}, "none": {"type": "null"}},
            "required": ["flag"],
            "additionalProperties": False,
        },
    },
    "required": ["a", "unit", "deep"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": ADD}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tiny_model(tmp_path_factory.mktemp("calling") / "tiny", context=4096)  # descriptions of tools are long
    live = LiveServer(models=[str(folder)], database=f"sqlite:///{folder / 'state.db'}")
    yield live
    live.close()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def speaking(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the model say a text although tools are there to be called."""

    def speak(text: str) -> None:
        served = server.call(lambda: next(iter(server.service.shelf._served.values())))  # type: ignore[attr-defined]
        monkeypatch.setattr(served.output, "_grammar", lambda *_: {"choice": [text]}, raising=True)

    return speak


def test_a_named_tool_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            **{**ASKED, "seed": seed}, tools=TOOLS, tool_choice=NAMED, max_tokens=300
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        (call,) = answer.message.tool_calls or ()
        assert call.function.name == "add" and call.id.startswith("call_")
        jsonschema.validate(json.loads(call.function.arguments), ADD)
        assert answer.message.content is None


def test_streamed_call_is_the_plain_one(client: openai.OpenAI) -> None:
    asked = {**ASKED, "tools": TOOLS, "tool_choice": NAMED, "max_tokens": 300}
    plain = client.chat.completions.create(**asked).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [delta.function.name for delta in deltas if delta.function and delta.function.name] == ["add"]
    assert len([delta.id for delta in deltas if delta.id]) == 1
    fragments = [delta.function.arguments or "" for delta in deltas if delta.function]
    assert plain.message.tool_calls and "".join(fragments) == plain.message.tool_calls[0].function.arguments
    assert len(fragments) > 3, "the arguments came at once"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_a_tool_without_arguments_is_called_with_an_empty_object(client: openai.OpenAI) -> None:
    for tools in (TOOLS[1:], TOOLS):
        choice = "required" if len(tools) == 1 else {"type": "function", "function": {"name": "now"}}
        answer = client.chat.completions.create(
            **ASKED, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=200
        ).choices[0]
        assert [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or ()] == [
            ("now", "{}")
        ]
        assert answer.finish_reason == "tool_calls"


def test_required_calls_at_least_one_and_every_one_fits(client: openai.OpenAI) -> None:
    numbers = set()
    for seed in range(4):
        answer = client.chat.completions.create(  # the end is unlikely
            **{**ASKED, "seed": seed}, tools=TOOLS, tool_choice="required", max_tokens=600,
            logit_bias={"0": -100, "2": -100},
        ).choices[0]  # fmt: skip
        calls = answer.message.tool_calls or []
        numbers.add(len(calls))
        complete = calls if answer.finish_reason == "tool_calls" else calls[:-1]
        for call in complete:
            if call.function.name == "add":
                jsonschema.validate(json.loads(call.function.arguments), ADD)
            else:
                assert call.function.arguments == "{}"
        assert len({call.id for call in calls}) == len(calls)
        assert answer.finish_reason in ("tool_calls", "length") and calls
    assert max(numbers) > 1, "no seed called twice"


def test_without_parallel_calls_there_is_one(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            **{**ASKED, "seed": seed}, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=300
        ).choices[0]
        assert len(answer.message.tool_calls or ()) == 1


def test_allowed_tools_are_the_only_ones(client: openai.OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    answer = client.chat.completions.create(
        **ASKED, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, max_tokens=200
    ).choices[0]
    assert {call.function.name for call in answer.message.tool_calls or ()} == {"now"}


def test_a_call_that_is_cut_ends_with_length(client: openai.OpenAI) -> None:
    asked = {**ASKED, "tools": TOOLS, "tool_choice": NAMED}
    whole = client.chat.completions.create(**asked, max_tokens=300)
    assert whole.usage
    cut = client.chat.completions.create(**asked, max_tokens=whole.usage.completion_tokens - 8)
    assert cut.choices[0].finish_reason == "length"
    assert whole.choices[0].message.tool_calls
    text = whole.choices[0].message.tool_calls[0].function.arguments
    for call in cut.choices[0].message.tool_calls or ():
        assert text.startswith(call.function.arguments)


CALLS = (
    'Look: <tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "s": "}\\"{"}}\n</tool_call>'
)


def test_what_the_model_says_of_itself_is_read_in_both_forms(client: openai.OpenAI, speaking: Any) -> None:
    client.chat.completions.create(**ASKED, max_tokens=1)  # opens the model
    speaking(CALLS)
    plain = client.chat.completions.create(**ASKED, tools=TOOLS, max_tokens=300).choices[0]
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in plain.message.tool_calls or ()]
    assert calls == [("now", {}), ("add", {"a": 1, "s": '}"{'})]
    assert plain.message.content == "Look: " and plain.finish_reason == "tool_calls"
    with client.chat.completions.stream(**ASKED, tools=TOOLS, max_tokens=300) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.message.content == "Look: " and final.finish_reason == "tool_calls"
    assert [call.function.arguments for call in final.message.tool_calls or ()] == [
        call.function.arguments for call in plain.message.tool_calls or ()
    ]


def test_one_call_alone_is_told_where_parallel_ones_are_not_wanted(client: openai.OpenAI, speaking: Any) -> None:
    client.chat.completions.create(**ASKED, max_tokens=1)
    speaking(CALLS)
    answer = client.chat.completions.create(**ASKED, tools=TOOLS, parallel_tool_calls=False, max_tokens=300).choices[0]
    assert len(answer.message.tool_calls or ()) == 1 and answer.finish_reason == "tool_calls"


def test_stop_strings_count_in_the_text_and_not_in_a_call(client: openai.OpenAI, speaking: Any) -> None:
    client.chat.completions.create(**ASKED, max_tokens=1)
    speaking(CALLS)
    asked = {**ASKED, "tools": TOOLS, "max_tokens": 300}
    answer = client.chat.completions.create(**asked, stop=["now", '"a"', "ok: <tool_call>x", ": <"]).choices[0]
    assert len(answer.message.tool_calls or ()) == 2 and answer.message.content == "Look: "
    answer = client.chat.completions.create(**asked, stop=["ok"]).choices[0]
    assert (answer.message.content, answer.message.tool_calls, answer.finish_reason) == ("Lo", None, "stop")


def test_none_shows_no_tools_and_reads_no_calls(client: openai.OpenAI, speaking: Any) -> None:
    bare = client.chat.completions.create(**ASKED, max_tokens=1)
    none = client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice="none", max_tokens=1)
    auto = client.chat.completions.create(**ASKED, tools=TOOLS, max_tokens=1)
    assert bare.usage and none.usage and auto.usage
    assert none.usage.prompt_tokens == bare.usage.prompt_tokens < auto.usage.prompt_tokens
    speaking(CALLS)
    answer = client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice="none", max_tokens=300).choices[0]
    assert answer.message.content == CALLS and not answer.message.tool_calls


def test_an_impossible_schema_is_refused_when_a_call_is_prescribed(client: openai.OpenAI) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    for parameters in ({"type": "object", "properties": {"a": False}, "required": ["a"]}, endless):
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ASKED, tools=tools, tool_choice="required", max_tokens=20)


def test_history_with_calls_and_results_is_answered(client: openai.OpenAI, server: LiveServer) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=3)
    assert answer.usage and answer.usage.completion_tokens == 3
    served = server.call(lambda: next(iter(server.service.shelf._served.values())))
    request = GenerateRequest("tiny", tools=(Tool("add", "Adds."),), tool_choice=ToolChoice())
    told = [{**message, "content": message["content"] or ""} for message in messages]
    told[2]["tool_calls"][0]["function"]["arguments"] = {"a": 1}
    text = served.engine.tokenizer.decode(served.output.prompted(request, told).ids)
    for part in ("Be brief.", '"name": "add"', '{"a": 1}', "42", "<tool_call>"):
        assert part in text
    assert text.count("<|im_start|>system") == 1
