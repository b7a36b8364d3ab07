"""One answer with a text and two calls, told by every family that knows calls, whole and streamed (api-contracts 12.4).

The model is bound to write it; the families' own packages put it together again.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from contract_families import MESSAGES, QUESTION, anthropic_of, bound, ollama_of, openai_of
from live import LiveServer
from pydantic import BaseModel
from tiny import tiny_model

WRITTEN = (
    'Look S: <tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "add", "arguments": {"a": {"b": [1, {}]}, "s": "}\\"{ \\u2028 été 😀"}}\n</tool_call>'
)
TEXT = "Look S: "
CALLS: list[tuple[str, Any]] = [("now", {}), ("add", {"a": {"b": [1, {}]}, "s": '}"{ \u2028 été 😀'})]
SCHEMA = {"type": "object", "properties": {"a": {"type": "object"}, "s": {"type": "string"}}}
NAMES = ("now", "add")


@dataclass(frozen=True, slots=True)
class Called:
    """What a client has read: the text, the calls with their arguments as objects, why it ended."""

    text: str
    calls: list[tuple[str, Any]]
    finish: str
    ids: int


def read(arguments: str) -> Any:
    """Arguments as an object; as they are where they were cut, which chat alone tells."""
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return arguments


def chat(url: str, stream: bool, limit: int, choice: str) -> Called:
    tools = [{"type": "function", "function": {"name": "now"}}]
    tools += [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]  # type: ignore[dict-item]
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "tools": tools, "max_tokens": limit}
    asked |= {"tool_choice": choice, "stop": ["STOP", '"b"']}  # one is held back before the call, one stands in it
    client = openai_of(url)
    if stream:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            try:
                (found,) = events.get_final_completion().choices
            except openai.LengthFinishReasonError as cut:  # the package's own word for it
                (found,) = cut.completion.choices
    else:
        (found,) = client.chat.completions.create(**asked).choices
    calls = found.message.tool_calls or []
    return Called(
        found.message.content or "",
        [(call.function.name, read(call.function.arguments)) for call in calls],
        found.finish_reason,
        len({call.id for call in calls}),
    )


def responses(url: str, stream: bool, limit: int, choice: str) -> Called:
    tools = [{"type": "function", "name": "now"}, {"type": "function", "name": "add", "parameters": SCHEMA}]
    asked: dict[str, Any] = {"model": "tiny", "input": QUESTION, "tools": tools, "max_output_tokens": limit}
    asked |= {"tool_choice": choice}
    client = openai_of(url)
    if stream:
        events: list[Any] = list(client.responses.create(**asked, stream=True))
        final = events[-1].response
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == final.output_text
    else:
        final = client.responses.create(**asked)
    calls = [item for item in final.output if item.type == "function_call" and item.status == "completed"]
    return Called(
        final.output_text,
        [(call.name, json.loads(call.arguments)) for call in calls],
        final.incomplete_details.reason if final.incomplete_details else final.status,
        len({call.call_id for call in calls}),
    )


def messages(url: str, stream: bool, limit: int, choice: str) -> Called:
    tools = [{"name": "now", "input_schema": {"type": "object"}}, {"name": "add", "input_schema": SCHEMA}]
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "tools": tools, "max_tokens": limit}
    asked |= {"tool_choice": {"type": choice}, "stop_sequences": ["STOP", '"b"']}
    client = anthropic_of(url)
    if stream:
        with client.messages.stream(**asked) as events:
            final: Any = events.get_final_message()
    else:
        final = client.messages.create(**asked)
    calls = [block for block in final.content if block.type == "tool_use"]
    return Called(
        "".join(block.text for block in final.content if block.type == "text"),
        [(call.name, call.input) for call in calls],
        final.stop_reason,
        len({call.id for call in calls}),
    )


def ollama_chat(url: str, stream: bool, limit: int, choice: str) -> Called:
    tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
    asked: dict[str, Any] = {"tools": tools if choice == "auto" else None, "options": {"num_predict": limit}}
    client = ollama_of(url)
    parts: list[Any] = list(client.chat("tiny", MESSAGES, **asked, stream=True)) if stream else []
    parts = parts or [client.chat("tiny", MESSAGES, **asked)]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    return Called(
        "".join(part.message.content or "" for part in parts),
        [(call.function.name, json.loads(json.dumps(call.function.arguments))) for call in calls],
        parts[-1].done_reason,
        len(calls),
    )


Ask = Callable[[str, bool, int, str], Called]
WAYS: dict[str, tuple[Ask, str, str, str]] = {
    "chat": (chat, "tool_calls", "length", "stop"),
    "responses": (responses, "completed", "max_output_tokens", "completed"),
    "messages": (messages, "tool_use", "max_tokens", "end_turn"),
    "ollama chat": (ollama_chat, "stop", "length", "stop"),
}
"""Each with its words for an answer of calls, one that was cut, and one of text."""
EVERY = pytest.mark.parametrize("name", WAYS)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tiny_model(tmp_path_factory.mktemp("calling") / "tiny", context=4096)
    live = LiveServer(bound(grammar={"choice": [WRITTEN]}), models=[str(folder)])
    yield live
    live.close()


@BOTH
@EVERY
def test_a_text_and_two_calls_are_told_apart(live: LiveServer, name: str, stream: bool) -> None:
    ask, called, _, _ = WAYS[name]
    assert ask(live.url, stream, 400, "auto") == Called(TEXT, CALLS, called, 2)


@BOTH
@EVERY
def test_where_no_call_may_be_made_none_is_read(live: LiveServer, name: str, stream: bool) -> None:
    ask, _, _, ended = WAYS[name]
    told = ask(live.url, stream, 400, "none")
    if name in ("chat", "messages"):  # the stop strings count in all of it now
        assert (told.text, told.calls) == (WRITTEN.partition('"b"')[0], [])
        assert told.finish == ("stop" if name == "chat" else "stop_sequence")
    else:
        assert told == Called(WRITTEN, [], ended, 0)


@BOTH
@EVERY
def test_an_answer_that_is_cut_says_so_wherever_it_is_cut(live: LiveServer, name: str, stream: bool) -> None:
    ask, _, cut, _ = WAYS[name]
    for limit in (2, 12, 20, 40):
        told = ask(live.url, stream, limit, "auto")
        # The beginning of a call that was cut before its name is text: nothing is lost.
        assert told.finish == cut and WRITTEN.startswith(told.text), limit
        assert not told.calls or told.text == TEXT, limit
        assert [called for called, _ in told.calls] == list(NAMES[: len(told.calls)])


class Add(BaseModel):
    """Adds."""

    a: dict[str, list[Any]]
    s: str


def test_the_package_reads_arguments_into_its_classes(live: LiveServer) -> None:
    tools: Any = [openai.pydantic_function_tool(Add, name="add"), {"type": "function", "function": {"name": "now"}}]
    asked: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 400}
    tools[1]["function"] |= {"strict": True, "parameters": {"type": "object", "properties": {}}}
    parsed = openai_of(live.url).chat.completions.parse(**asked, tools=tools).choices[0].message.tool_calls
    assert parsed is not None and [call.function.name for call in parsed] == list(NAMES)
    read = parsed[1].function.parsed_arguments
    assert isinstance(read, Add) and read.model_dump() == CALLS[1][1]
