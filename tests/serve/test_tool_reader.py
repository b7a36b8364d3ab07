"""Reading answers: pieces however they are cut, and nothing lost."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_templates import SOURCES, small_template

from cadran.serve.asked import Tool
from cadran.serve.tools.call_syntax import HERMES, CallSyntax, Reasoning
from cadran.serve.tools.marked_reader import MarkedReader
from cadran.serve.tools.output_reader import Argued, Called, Hung, Piece, Said, Thought
from cadran.serve.tools.probes import calls_of, derive
from cadran.serve.tools.tool_history import native_messages

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
        "more": {"type": "object", "properties": {}}, "list": {"type": "array"}, "maybe": {"anyOf": [{"type": "null"}]},
    },
}  # fmt: skip
TOOLS = (Tool("get_weather", "The weather.", SCHEMA), Tool("get", "Anything.", SCHEMA), Tool("now", "The time."))
THINK = Reasoning("<think>", "</think>")


def read(syntax: CallSyntax | None, *texts: str, **options: Any) -> list[Piece]:
    reader = MarkedReader(syntax, TOOLS, **options)
    return joined([piece for text in texts for piece in reader.push(text)] + reader.end())


def joined(pieces: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        match found[-1] if found else None, piece:
            case Said(before), Said(text):
                found[-1] = Said(before + text)
            case Thought(before), Thought(text):
                found[-1] = Thought(before + text)
            case Argued(before), Argued(text):
                found[-1] = Argued(before + text)
            case _:
                found.append(piece)
    return found


def call(name: str, arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


SYNTAXES = {name: derive(small_template(name)).syntax for name in SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_every_way_of_writing_calls_is_understood(name: str) -> None:
    assert SYNTAXES[name] is not None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# In formats without JSON a value ends where the template's own mark stands.
plain_text = st.text(st.characters(exclude_characters="<>\n\r", exclude_categories=["Cs", "Cc"]), max_size=20)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "city": plain_text, "days": st.integers(-99, 99), "exact": st.booleans(), "maybe": st.none(),
        "more": st.dictionaries(st.sampled_from(["a", "é", "{", '"']), values, max_size=2), "list": st.lists(values),
    },
)  # fmt: skip
calls = st.lists(st.tuples(st.sampled_from(["get_weather", "get", "now"]), arguments), min_size=1, max_size=3)


@pytest.mark.parametrize("name", SOURCES)
@given(calls=calls, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_calls_that_a_template_writes_are_read_back_however_they_are_cut(
    name: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    template, syntax = small_template(name), SYNTAXES[name]
    assert syntax is not None
    if syntax.separator is None:
        calls = calls[:1]
    if syntax.style in ("parameters", "pythonic"):  # their values end at marks that JSON may contain
        calls = [
            (tool, {key: value for key, value in given.items() if "</" not in json.dumps(value)})
            for tool, given in calls
        ]
    asked = [
        {"type": "function", "id": f"callnumb{number}", "function": {"name": tool, "arguments": given}}
        for number, (tool, given) in enumerate(calls)
    ]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": asked}]
    text = template.render(native_messages(messages, derive(template)))
    text = text.rpartition("<|im_start|>assistant\n")[2].rpartition("<|im_end|>")[0]
    whole = read(syntax, text)
    assert calls_of(whole) == calls
    assert [piece for piece in whole if isinstance(piece, Said)] == []
    cut, place, turn = [], 0, 0
    while place < len(text):
        cut.append(text[place : place + cuts[turn % len(cuts)]])
        place, turn = place + cuts[turn % len(cuts)], turn + 1
    assert read(syntax, *cut) == whole


noise = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "\n", " ", "{", "}", '"', '{"name": "get"', ', "arguments": ', "{}", "[", "]",
         "<think>", "</think>", "a", "été", ":", "<", "<tool", "now", '"name"', "\\", call("get", {"city": "x"}),
         "<function=", "get>", "<parameter=", "city>", "</parameter>", "</function>", "(", "days=3", ")", ","]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("name", [None, *SOURCES])
@given(text=noise, cut=st.integers(1, 7), thinking=st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_text_is_read_the_same_however_it_is_cut(name: str | None, text: str, cut: int, thinking: bool) -> None:
    syntax = HERMES if name is None else SYNTAXES[name]
    options = {"reasoning": THINK, "thinking": thinking}
    pieces = [text[start : start + cut] for start in range(0, len(text), cut)]
    assert read(syntax, *pieces, **options) == read(syntax, text, **options)


@given(text=noise)
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost(text: str) -> None:
    pieces = read(HERMES, text)
    told = "".join(
        piece.text if isinstance(piece, Said) else piece.fragment if isinstance(piece, Argued) else ""
        for piece in pieces
    )
    if not any(isinstance(piece, Called) for piece in pieces):
        assert told == text
    else:  # only marks and the space beside them are left out
        rest = iter(text)
        assert all(character in rest for character in told)


def test_text_before_and_between_calls_is_said() -> None:
    text = f"Let me see. {call('now', {})} and {call('get', {'city': 'x'})}"
    assert read(HERMES, text) == [
        Said("Let me see. "), Called("now"), Argued("{}"), Hung(),
        Said("and "), Called("get"), Argued('{"city": "x"}'), Hung(),
    ]  # fmt: skip


def test_a_cut_call_is_told_and_does_not_end() -> None:
    text = call("get", {"city": "x{}"})
    for stop in range(text.index("{", 20) + 1, text.index("}\n")):
        pieces = read(HERMES, text[:stop])
        assert Called("get") in pieces and Hung() not in pieces


@pytest.mark.parametrize(
    "text",
    [
        call("unknown", {}),
        '<tool_call>\n{"name": "get", "arguments": [1]}\n</tool_call>',
        '<tool_call>{"nam',
        "<tool_call> nothing </tool_call>",
        '{"name": "get", "arguments": {}}',
        "a < b and <tool_cal l>",
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    assert read(HERMES, text) == [Said(text)]


def test_arguments_before_the_name_and_as_text_are_understood() -> None:
    early = '<tool_call>{"arguments": {"city": "x"}, "name": "get"}</tool_call>'
    quoted = '<tool_call>{"name": "get", "arguments": "{\\"city\\": \\"x\\"}"}</tool_call>'
    absent = '<tool_call>{"name": "get"}</tool_call>'
    null = '<tool_call>{"name": "get", "arguments": null}</tool_call>'
    for text, expected in ((early, {"city": "x"}), (quoted, {"city": "x"}), (absent, {}), (null, {})):
        assert calls_of(read(HERMES, text)) == [("get", expected)]


def test_line_breaks_in_strings_are_mended() -> None:
    text = '<tool_call>{"name": "get", "arguments": {"city": "a\nb"}}</tool_call>'
    assert calls_of(read(HERMES, text)) == [("get", {"city": "a\nb"})]


def test_deep_nesting_is_no_call_and_no_failure() -> None:
    text = '<tool_call>{"name": "get", "arguments": {"a": ' + "[" * 5000
    assert "[" * 4000 in "".join(piece.text for piece in read(HERMES, text) if isinstance(piece, Said))


def test_reasoning_is_told_apart_and_trimmed() -> None:
    answer = "<think>\nWell, \n<b>no</b>\n</think>\n\nYes."
    expected = [Thought("Well, \n<b>no</b>"), Said("Yes.")]
    assert read(None, answer, reasoning=THINK) == expected
    assert read(None, *answer, reasoning=THINK) == expected
    assert read(None, answer.removeprefix("<think>"), reasoning=THINK, thinking=True) == expected
    assert read(None, "Yes <think> no", reasoning=THINK) == [Said("Yes <think> no")]
    assert read(None, "cut in the mid", reasoning=THINK, thinking=True) == [Thought("cut in the mid")]


def test_held_text_is_only_what_may_begin_a_mark() -> None:
    reader = MarkedReader(HERMES, TOOLS)
    assert joined(reader.push("a <b <tool")) == [Said("a <b ")]
    assert joined(reader.push("s>")) == [Said("<tools>")]
    assert reader.end() == []
