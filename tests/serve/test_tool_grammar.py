"""The grammars of prescribed calls: they allow what the template writes, and nothing that does not fit the schemas."""

from typing import Any

import pytest
from small_templates import SOURCES, small_template
from tiny import tiny_tokenizer

from cadran.engine.grammar import GrammarCompiler
from cadran.errors import UserError
from cadran.serve.asked import Tool
from cadran.serve.tools.call_syntax import Reasoning
from cadran.serve.tools.output_grammar import OutputGrammar
from cadran.serve.tools.probes import derive
from cadran.serve.tools.tool_history import native_messages

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]}, "deep": {"$ref": "#/$defs/deep"},
    },
    "required": ["city", "days"],
    "$defs": {"deep": {"type": "object", "properties": {"on": {"type": "boolean"}}, "additionalProperties": False}},
}  # fmt: skip
TOOLS = (Tool("get_weather", "The weather.", SCHEMA), Tool("now", "The time."))
FITTING: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'été "x" {', "days": 3, "unit": "C", "deep": {"on": True}}),
    ("get_weather", {"city": "", "days": 9}),
    ("now", {}),
]
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "x"}),
    ("get_weather", {"city": "x", "days": 10}),
    ("get_weather", {"city": "x", "days": 3, "unit": "K"}),
    ("get_weather", {"city": "x", "days": 3, "other": 1}),
    ("get_weather", {"city": "x", "days": 3, "deep": {"on": 1}}),
    ("now", {"a": 1}),
    ("later", {}),
]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tiny_tokenizer())


def accepts(compiler: GrammarCompiler, grammar: str, text: str) -> bool:
    matcher = compiler.ebnf(grammar).matcher(())
    for id in tiny_tokenizer().encode(text, special=True):
        try:
            matcher.accept(id)
        except UserError:
            return False
    return matcher.can_end


def written(name: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    template = small_template(name)
    asked = [
        {"type": "function", "id": f"callnumb{number}", "function": {"name": tool, "arguments": arguments}}
        for number, (tool, arguments) in enumerate(calls)
    ]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": asked}]
    text = template.render(native_messages(messages, derive(template)))
    return text.rpartition("<|im_start|>assistant\n")[2].rpartition("<|im_end|>")[0].strip()


@pytest.mark.parametrize("name", SOURCES)
def test_grammar_allows_what_fits_and_nothing_else(compiler: GrammarCompiler, name: str) -> None:
    syntax = derive(small_template(name)).syntax
    assert syntax is not None
    grammars = OutputGrammar(tiny_tokenizer())
    body, rules = grammars.calls(syntax, TOOLS, several=True)
    grammar = grammars.whole(body, rules, None, False)
    for call in FITTING:
        assert accepts(compiler, grammar, written(name, [call])), (grammar, written(name, [call]))
    if syntax.separator is not None:
        assert accepts(compiler, grammar, written(name, FITTING))
        body, rules = grammars.calls(syntax, TOOLS, several=False)
        assert not accepts(compiler, grammars.whole(body, rules, None, False), written(name, FITTING))
    for call in WRONG if not syntax.quoted else WRONG[-1:]:
        assert not accepts(compiler, grammar, written(name, [call])), call


@pytest.mark.parametrize(
    ("asked", "fits", "fails"),
    [
        ({"json_schema": {"enum": [1, 2]}}, "2", "3"),
        ({"json_object": True}, '{"a": []}', "[]"),
        ({"regex": r"a/b\/[0-9]+"}, "a/b/12", "a/b/"),
        ({"choice": ["yes", 'n"o\n']}, 'n"o\n', "maybe"),
    ],
)
def test_answers_after_reasoning(compiler: GrammarCompiler, asked: dict[str, Any], fits: str, fails: str) -> None:
    grammars = OutputGrammar(tiny_tokenizer())
    answer = grammars.answer(asked)
    assert answer is not None
    for reasoning in (Reasoning("<think>", "</think>"), Reasoning("<|fim_prefix|>", "<|fim_suffix|>")):
        optional = grammars.whole("answer", [f"answer: {answer}"], reasoning, False)
        opened = grammars.whole("answer", [f"answer: {answer}"], reasoning, True)
        thought = f"{reasoning.open}\nwhy\n{reasoning.close}\n\n"
        assert accepts(compiler, optional, thought + fits) and accepts(compiler, optional, fits)
        assert accepts(compiler, opened, thought.removeprefix(reasoning.open) + fits)
        assert not accepts(compiler, optional, thought + fails) and not accepts(compiler, optional, fails)
        assert not accepts(compiler, opened, fits)


def test_special_tokens_in_marks_are_tokens() -> None:
    tokenizer = tiny_tokenizer()
    grammars = OutputGrammar(tokenizer)
    assert grammars.special_ids(["<|fim_prefix|>[", "<tool_call>\n"]) == {tokenizer.fim_prefix}
    assert grammars.literal("<|fim_prefix|>[x") == f'<[{tokenizer.fim_prefix}]> "[x"'
    assert grammars.literal("") == ""
