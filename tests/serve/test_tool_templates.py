"""What is derived from public chat templates: the calls that a template writes are read back."""

from datetime import datetime

import pytest
from public_templates import TEMPLATES, public_template

from cadran.serve.asked import Tool
from cadran.serve.tools.call_syntax import HERMES, Reasoning
from cadran.serve.tools.marked_reader import MarkedReader
from cadran.serve.tools.output_reader import Argued, Said
from cadran.serve.tools.probes import calls_of, derive
from cadran.serve.tools.tool_history import native_messages, with_tools, without_system, written_messages
from cadran.tokenizer.chat_template import ChatTemplate

pytestmark = pytest.mark.network

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "description": "how many"},
        "exact": {"type": "boolean", "description": "whether"},
        "options": {"type": "object", "properties": {}, "description": "more"},
    },
    "required": ["city"],
}
TOOLS = (
    Tool("get_weather", "The weather of a place.", SCHEMA),
    Tool("get", "Anything.", SCHEMA),
    Tool("now", "The time."),
)
CALLS = [
    ("get_weather", {"city": 'L\'Haÿ-"les"-Roses {x}', "days": -3, "exact": True, "options": {"a": [1, {"b": "}\\"}]}}),
    ("get", {"city": "été [1] \\ 2"}),
    ("now", {}),
]
NOW = datetime(2026, 1, 2)


def conversation(calls: list, content: str = "") -> list[dict]:
    listed = [
        {"type": "function", "id": f"call_{number:024d}", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    return [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": content, "tool_calls": listed}]


def written(template: ChatTemplate, calls: list, content: str = "") -> str:
    """What the assistant writes, by the template."""
    derived = derive(template)
    messages = native_messages(conversation(calls, content), derived)
    tools = [tool.to_template() for tool in TOOLS]
    text = template.render(messages, tools, now=NOW)
    opened = template.render(messages[:1], tools, now=NOW)
    start = next((n for n, (a, b) in enumerate(zip(text, opened, strict=False)) if a != b), len(opened))
    return text[start:]


@pytest.fixture(scope="module", params=TEMPLATES)
def named(request: pytest.FixtureRequest) -> tuple[str, ChatTemplate]:
    return request.param, public_template(request.param)


@pytest.fixture(scope="module", params=[name for name, style in TEMPLATES.items() if style])
def calling(request: pytest.FixtureRequest) -> tuple[str, ChatTemplate]:
    return request.param, public_template(request.param)


def test_style_of_calls_is_found(named: tuple[str, ChatTemplate]) -> None:
    name, template = named
    derived = derive(template)
    assert (derived.syntax.style if derived.syntax else None) == TEMPLATES[name]


def test_calls_that_the_template_writes_are_read_back_however_they_are_cut(calling: tuple[str, ChatTemplate]) -> None:
    name, template = calling
    syntax = derive(template).syntax
    assert syntax is not None
    cases = [CALLS[:1], CALLS[1:2], CALLS[2:]] + ([CALLS, CALLS[::-1]] if syntax.separator is not None else [])
    for calls in cases:
        text = written(template, calls)
        head = min(place for trigger in (syntax.triggers or ("{",)) if (place := text.find(trigger)) >= 0)
        for size in (1, 2, 7, len(text)):
            reader = MarkedReader(syntax, TOOLS)
            pieces = [
                piece for start in range(head, len(text), size) for piece in reader.push(text[start : start + size])
            ]
            pieces += reader.end()
            assert calls_of(pieces) == calls, (name, text)


def test_arguments_stream_as_they_come(calling: tuple[str, ChatTemplate]) -> None:
    _, template = calling
    syntax = derive(template).syntax
    assert syntax is not None
    text = written(template, [("get", {"city": "a" * 100})])
    text = text[min(place for trigger in (syntax.triggers or ("{",)) if (place := text.find(trigger)) >= 0) :]
    reader = MarkedReader(syntax, TOOLS)
    before_the_end = text[: text.index("a" * 100) + 50]
    fragments = [piece.fragment for piece in reader.push(before_the_end) if isinstance(piece, Argued)]
    assert "".join(fragments).endswith("a" * 50)


@pytest.mark.parametrize(
    ("name", "reasoning"),
    [
        ("Qwen-Qwen3-0.6B", Reasoning("<think>", "</think>")),
        ("Qwen-QwQ-32B", Reasoning("<think>", "</think>")),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", Reasoning("<think>", "</think>")),
        ("Qwen-Qwen2.5-7B-Instruct", None),
        ("meta-llama-Llama-3.1-8B-Instruct", None),
    ],
)
def test_marks_of_reasoning_are_found(name: str, reasoning: Reasoning | None) -> None:
    assert derive(public_template(name)).reasoning == reasoning


def test_what_a_template_refuses_is_put_so_that_it_takes_it() -> None:
    nemo = public_template("mistralai-Mistral-Nemo-Instruct-2407")  # ids of nine characters
    derived = derive(nemo)
    result = {"role": "tool", "content": "4", "tool_call_id": "call_" + "0" * 24}
    messages = native_messages([*conversation(CALLS[:1]), result], derived)
    assert derived.short_ids
    assert nemo.render(messages, [TOOLS[0].to_template()], now=NOW)
    llama = public_template("meta-llama-Llama-3.1-8B-Instruct")  # one call in an answer
    results = [{"role": "tool", "content": str(n), "tool_call_id": f"call_{n:024d}"} for n in (1, 0)]
    messages = native_messages([*conversation(CALLS[:2]), *results], derive(llama))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [message.get("content") for message in messages[2::2]] == ["0", "1"]
    assert llama.render(messages, [TOOLS[0].to_template()], now=NOW)


def test_templates_without_tools_or_system_messages_take_both_as_text() -> None:
    gemma = public_template("google-gemma-2-2b-it")
    derived = derive(gemma)
    assert not derived.takes_system
    history = [
        {"role": "system", "content": "Be brief."},
        *conversation(CALLS[:2], "Let me see."),
        {"role": "tool", "content": "sun", "tool_call_id": "call_0"},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
        {"role": "user", "content": "Well?"},
    ]
    text = gemma.render(without_system(with_tools(written_messages(history, HERMES), TOOLS, HERMES)), None, True)
    for part in ("Be brief.", '"get_weather"', "sun", "rain", "Well?", "Let me see."):
        assert part in text
    answer = text[text.index("Let me see.") : text.index("sun")]
    pieces = MarkedReader(HERMES, TOOLS).push(answer)
    assert calls_of(pieces) == CALLS[:2]
    assert isinstance(pieces[0], Said) and pieces[0].text.strip() == "Let me see."
