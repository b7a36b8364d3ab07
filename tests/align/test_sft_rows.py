"""Users' conversations as tokens: the answers and their stop tokens are learnt, exactly, whatever the template."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import BOS, EOS, small_tokenizer

from cadran.align.data.row import Conversation, Verifiable
from cadran.align.sft_rows import RefusedRow, Renderer, encode_chat, encode_rows, split_rows
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.chat_template import ChatTemplate
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.template_renderer import TemplateRenderer
from cadran.tokenizer.templates.named import named_template
from cadran.tokenizer.tokenizer import Tokenizer

VARIABLES = {"bos_token": BOS, "eos_token": EOS}
CHATML = named_template("chatml")
LLAMA2 = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}{{- bos_token + '[INST] ' + m['content'] + ' [/INST]' -}}"
    "{%- elif m['role'] == 'assistant' -%}{{- ' ' + m['content'] + ' ' + eos_token -}}"
    "{%- else -%}{{- raise_exception('Only user and assistant roles are supported!') -}}{%- endif -%}{%- endfor -%}"
)
WITHOUT_STOP = (
    "{%- for m in messages -%}{{- '<b>' + m['role'] + '</b> ' + m['content'] + '\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<b>assistant</b> ' -}}{%- endif -%}"
)
WITHOUT_SYSTEM = "{%- set messages = messages | rejectattr('role', 'equalto', 'system') | list -%}" + CHATML
MARKED_WITHOUT_STOP = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}{%- if m['role'] == 'assistant' -%}"
    "{%- generation -%}{{- m['content'] -}}{%- endgeneration -%}{%- else -%}{{- m['content'] -}}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
)


def foreign(source: str, kind: str = "bytes") -> TemplateRenderer:
    tokenizer = Tokenizer(small_tokenizer(kind, ("<|im_start|>", "<|im_end|>")), config=VARIABLES)
    return TemplateRenderer(tokenizer, ChatTemplate(source, VARIABLES))


OURS = ChatRenderer(train_bpe(["L'été est là, à Orly. What is a dial? Be brief.\n"] * 5, 400))
RENDERERS: dict[str, tuple[Renderer, str]] = {
    "ours": (OURS, "{}<|im_end|>"),
    "chatml": (foreign(CHATML), "{}<|im_end|>"),
    "llama 2": (foreign(LLAMA2), " {} </s>"),
    "llama 2 in pieces": (foreign(LLAMA2, "llama"), " {} </s>"),
}


def talk(*turns: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]


def raw(renderer: Renderer, ids: Any) -> str:
    return b"".join(renderer.tokenizer.token_bytes(int(id)) for id in ids).decode()


TURN = st.text("aé 日<|>\n[]INST", max_size=12).map(lambda text: f"x{text}x")


@pytest.mark.parametrize("name", RENDERERS)
@given(turns=st.lists(st.tuples(TURN, TURN), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_exactly_the_answers_and_their_stop_tokens_are_learnt(name: str, turns: list[tuple[str, str]]) -> None:
    renderer, written = RENDERERS[name]
    messages = talk(*(text for turn in turns for text in turn))
    document = encode_chat(messages, None, renderer, 2000, "row 1")
    assert document.supervised is not None
    assert raw(renderer, document.ids[document.supervised]) == "".join(written.format(answer) for _, answer in turns)
    stops = [int(id) in renderer.stop_ids for id in document.ids[document.supervised]]
    assert sum(stops) == len(turns) and stops[-1] and bool(document.supervised[-1])
    assert document.ids.tolist() == renderer.render(messages).ids[: len(document.ids)]


@pytest.mark.parametrize("name", RENDERERS)
def test_what_is_learnt_begins_where_serving_begins(name: str) -> None:
    renderer, _ = RENDERERS[name]
    messages = talk("What is a dial?", "L'été.", "Be brief.", "Orly.")
    document = encode_chat(messages, None, renderer, 2000, "row 1")
    assert document.supervised is not None
    starts = [int(n) for n in np.flatnonzero(np.diff(document.supervised.astype(int)) == 1) + 1]
    for start, asked in zip(starts, (messages[:1], messages[:3]), strict=True):
        assert document.ids[:start].tolist() == renderer.render(asked, add_generation_prompt=True).ids


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Orly"}}}
CALLING = [
    {"role": "user", "content": "Quel temps ?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "18 degrees"},
    {"role": "assistant", "content": "Beau."},
]
TOLD = [{"role": "system", "content": "s"}, *talk("a", "b")]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def test_tool_calls_are_learnt_and_tool_results_are_not() -> None:
    renderer = foreign(named_template("qwen"))
    document = encode_chat(CALLING, TOOLS, renderer, 2000, "row 1")
    assert document.supervised is not None
    learnt, read = (raw(renderer, document.ids[mask]) for mask in (document.supervised, ~document.supervised))
    assert '"arguments": {"place": "Orly"}' in learnt and learnt.count("<|im_end|>") == 2
    assert learnt.endswith("Beau.<|im_end|>")
    assert "18 degrees" not in learnt and "18 degrees" in read and "Quel temps" in read


def test_arguments_are_written_as_text_for_a_template_that_joins_them() -> None:
    joined = "{%- for c in m.tool_calls or [] -%}{{- c.function.name + c.function.arguments -}}{%- endfor -%}"
    source = CHATML.replace("message", "m").replace("ms -%}", "messages -%}").replace(
        "{%- for m in messages -%}", "{%- for m in messages -%}" + joined
    )  # fmt: skip
    renderer = foreign(source)
    document = encode_chat(CALLING, None, renderer, 2000, "row 1")
    assert 'weather{"place": "Orly"}' in raw(renderer, document.ids)


@pytest.mark.parametrize(
    ("renderer", "messages", "tools", "reason"),
    [
        (OURS, talk("a"), None, "row 9 of x.json: it has no answer to learn from"),
        (OURS, talk("a", " "), None, "row 9 of x.json: it has an empty answer"),
        (OURS, CALLING, None, "row 9 of x.json: it calls tools, which the template of this model cannot write"),
        (OURS, talk("a", "b"), TOOLS, "row 9 of x.json: This model was not taught to call tools"),
        (OURS, talk("a", "\ud800"), None, "row 9 of x.json: .*surrogate"),
        (foreign(LLAMA2), TOLD, None, "row 9 .*Only user and assistant"),
        (foreign(LLAMA2), CALLING, None, "row 9 of x.json: .*Only user and assistant"),
        (foreign(WITHOUT_SYSTEM), TOLD, None, "leaves its system message out"),
        (foreign(CHATML), CALLING, None, "row 9 of x.json: the template of this model leaves its tool calls out"),
        (foreign(CHATML), talk("a", "b"), TOOLS, "leaves its tools out"),
    ],
)  # fmt: skip
def test_a_row_that_the_template_cannot_write_is_refused_by_name(
    renderer: Renderer, messages: Any, tools: Any, reason: str
) -> None:
    with pytest.raises(RefusedRow, match=reason):
        encode_chat(messages, tools, renderer, 2000, "row 9 of x.json")


@pytest.mark.parametrize("source", [WITHOUT_STOP, MARKED_WITHOUT_STOP])
def test_a_template_without_a_stop_token_is_one_error_for_all_rows(source: str) -> None:
    rows = [Conversation(talk("a", "b"), source="row 1"), Conversation(talk("c", "d"), source="row 2")]
    with pytest.raises(UserError, match=r"writes no stop token after an answer.*chat_template") as error:
        encode_rows(rows, foreign(source), 2000)
    assert not isinstance(error.value, RefusedRow)


def test_a_template_that_writes_no_answer_teaches_nothing_and_is_refused() -> None:
    deaf = "{%- for m in messages if m['role'] == 'user' -%}{{- m['content'] + '<|im_end|>' -}}{%- endfor -%}"
    with pytest.raises(RefusedRow, match="row 1: none of its tokens would be learnt"):
        encode_chat(talk("a", "b"), None, foreign(deaf), 100, "row 1")
    all_of_it = "{%- generation -%}{%- for m in messages -%}{{- m['content'] + '<|im_end|>' -}}{%- endfor -%}{%- endgeneration -%}"  # fmt: skip # noqa: E501
    with pytest.raises(RefusedRow, match="row 1: all of its tokens would be learnt"):
        encode_chat(talk("a", "b"), None, foreign(all_of_it), 100, "row 1")


@pytest.mark.parametrize("name", RENDERERS)
def test_a_long_row_keeps_as_many_turns_as_fit(name: str) -> None:
    renderer, _ = RENDERERS[name]
    messages = talk(*(f"turn {number}" for number in range(14)))
    lengths = [len(encode_chat(messages[:end], None, renderer, 2000, "row 1").ids) for end in range(2, 15, 2)]
    assert lengths == sorted(set(lengths))
    for turns, length in enumerate(lengths, start=1):
        assert len(encode_chat(messages, None, renderer, length - 1, "row 1").ids) == length
        encoded = encode_rows([Conversation(messages, source="row 1")], renderer, length - 1)
        assert encoded.shortened == (["row 1"] if turns < len(lengths) else [])
    with pytest.raises(RefusedRow, match=f"row 1: it has {lengths[-1]:,} tokens and the context {lengths[0] - 2:,}"):
        encode_chat(messages, None, renderer, lengths[0] - 2, "row 1")


def test_rows_that_are_refused_are_named_and_the_others_kept() -> None:
    rows = [Conversation(talk("a", "b"), source="row 1"), Conversation(CALLING, source="row 2")]
    encoded = encode_rows([*rows, Conversation(talk("c", "d"), source="row 3")], OURS, 100)
    assert [row.source for row in encoded.rows] == ["row 1", "row 3"] and len(encoded.documents) == 2
    assert len(encoded.refused) == 1 and encoded.refused[0].startswith("row 2: ")


def test_a_template_that_writes_the_date_gives_the_same_tokens_on_any_day() -> None:
    dated = foreign("{{- strftime_now('%d %b %Y') + '\\n' -}}" + CHATML)
    document = encode_chat(talk("a", "b"), None, dated, 200, "row 1")
    assert raw(dated, document.ids).startswith("01 Jan 2025\n")


def prompts(count: int) -> list[Conversation]:
    return [Conversation(talk(f"question {number}", "b"), source=f"row {number}") for number in range(count)]


@given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_row_stays_on_its_side_when_others_are_added(some: int, more: int, seed: int) -> None:
    few, many = split_rows(prompts(some), 0.3, seed), split_rows(prompts(some + more), 0.3, seed)
    assert len(few.held_out) >= 1 and len(few.train) >= 1 and len(few.train) + len(few.held_out) == some
    if len(few.held_out) > 1 and len(few.train) > 1:  # otherwise one was moved so that neither side is empty
        sides = {row.source: row in many.held_out for row in prompts(some)}
        assert all(sides[row.source] for row in few.held_out) and not any(sides[row.source] for row in few.train)
    assert few == split_rows(prompts(some), 0.3, seed)


def test_the_share_is_about_what_was_asked_and_said() -> None:
    split = split_rows(prompts(2000), 0.1, 0)
    assert 150 < len(split.held_out) < 250
    assert split.said.startswith(f"{len(split.train):,} rows to learn from, {len(split.held_out)} held out")
    assert split_rows(prompts(2000), 0.1, 1).held_out != split.held_out
    assert split_rows(prompts(5), 0.0, 0).held_out == []


def test_answers_to_one_question_are_never_on_both_sides() -> None:
    rows = [Conversation(talk(f"question {number % 40}", f"answer {number}")) for number in range(400)]
    split = split_rows(rows, 0.25, 3)
    asked = [{row.messages[0]["content"] for row in side} for side in (split.train, split.held_out)]
    assert asked[0] and asked[1] and not asked[0] & asked[1]


def test_rows_with_one_common_prompt_are_divided_by_their_content() -> None:
    rows = [Verifiable(talk("same"), {"answer": number, "nan": float("nan")}) for number in range(50)]
    split = split_rows(rows, 0.2, 0)
    assert 1 <= len(split.held_out) <= 25 and len(split.train) + len(split.held_out) == 50


def test_one_row_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="fewer than two different rows; add some"):
        split_rows([*prompts(1), *prompts(1)], 0.1, 0)
    with pytest.raises(ValueError, match="share"):
        split_rows(prompts(5), 1.0, 0)
