"""Preference pairs: what is learnt is what would be served, whole, and what cannot be is refused by name."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import BOS, EOS, KINDS, small_tokenizer

from cadran.align.branches import Prompted
from cadran.align.data.row import Labelled
from cadran.align.preference import (
    PreferencePair,
    checked,
    encode_labelled,
    encode_pair,
    encode_pairs,
    prompt_key,
    split_pairs,
)
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.chat_template import ChatTemplate
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.template_renderer import TemplateRenderer
from cadran.tokenizer.tokenizer import Tokenizer

PAIR = PreferencePair(
    [{"role": "user", "content": "What is a dial?"}], "A clock's face.", "An animal.", source="row 7 of pairs.jsonl"
)
LONG = replace(
    PAIR,
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there"},
        *PAIR.messages,
    ],
)
VARIABLES = {"bos_token": BOS, "eos_token": EOS}
MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TURN = "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}"
PROMPT = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
CHATML = "{%- for m in messages -%}" + TURN + "{%- endfor -%}" + PROMPT
LLAMA = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{%- if m['role'] == 'assistant' -%}{{- ' ' + m['content'] + eos_token -}}"
    "{%- else -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}{%- endif -%}{%- endfor -%}"
)
THINKING = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}"
    "{%- if m['role'] == 'assistant' and loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- m['content'] + '<|im_end|>\\n' -}}{%- endfor -%}" + PROMPT
)
COUNTING = "{{- messages | length -}}" + CHATML
ENDLESS = "{%- for m in messages -%}{{- m['role'] + ': ' + m['content'] + '\\n' -}}{%- endfor -%}" + (
    "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
)
LOOKING = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
LOWERING = CHATML.replace("m['content']", "(m['content'] | lower)")


def template_renderer(source: str, kind: str = "bytes") -> TemplateRenderer:
    return TemplateRenderer(Tokenizer(small_tokenizer(kind, MARKS), config=VARIABLES), ChatTemplate(source, VARIABLES))


@pytest.fixture(scope="module")
def ours() -> ChatRenderer:
    return ChatRenderer(train_bpe(["What is a dial? A clock's face."] * 5, 320))


def whole(encoded: Prompted | str) -> Prompted:
    assert isinstance(encoded, Prompted), encoded
    return encoded


def refusal(encoded: Prompted | str) -> str:
    assert isinstance(encoded, str), "it was not refused"
    return encoded


TEXT = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() != "")


@settings(deadline=None)
@given(asked=TEXT, chosen=TEXT, rejected=TEXT)
def test_ours_learns_the_answers_own_tokens_and_the_stop_after_the_served_prompt(
    ours: ChatRenderer, asked: str, chosen: str, rejected: str
) -> None:
    pair = PreferencePair([{"role": "user", "content": asked}], chosen, rejected)
    encoded = encode_pair(pair, ours, 10_000)
    if chosen.strip() == rejected.strip():
        assert "same answer" in refusal(encoded)
        return
    served = ours.render(pair.messages, add_generation_prompt=True).ids
    assert list(whole(encoded).prompt) == served
    for ids, text in zip(whole(encoded).answers, (chosen, rejected), strict=True):
        assert list(ids) == [*ours.tokenizer.encode(text.strip()), ours.tokenizer.im_end]


@pytest.mark.parametrize("pair", [PAIR, LONG], ids=["one turn", "several"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [CHATML, LLAMA, THINKING], ids=["chatml", "llama", "thinking"])
def test_a_foreign_template_learns_what_it_serves_up_to_one_stop(source: str, kind: str, pair: PreferencePair) -> None:
    renderer = template_renderer(source, kind)
    encoded = encode_pair(pair, renderer, 10_000)
    served = renderer.render(pair.messages, add_generation_prompt=True).ids
    assert list(whole(encoded).prompt) == served
    for ids, text in zip(whole(encoded).answers, (pair.chosen, pair.rejected), strict=True):
        conversation = renderer.render([*pair.messages, {"role": "assistant", "content": text}]).ids
        assert conversation[: len(served) + len(ids)] == served + list(ids)
        assert [id in renderer.stop_ids for id in ids] == [False] * (len(ids) - 1) + [True]
        assert text.split()[-1] in renderer.tokenizer.decode(list(ids))


@pytest.mark.parametrize(
    ("source", "reason"),
    [(COUNTING, "changes its prompt"), (ENDLESS, "writes no stop token"), (LOWERING, "this model reads alike")],
    ids=["counting", "endless", "lowering"],
)
def test_a_template_that_cannot_be_learnt_from_refuses_the_row_by_name(source: str, reason: str) -> None:
    pair = replace(PAIR, chosen="An ANIMAL.")
    refused = refusal(encode_pair(pair, template_renderer(source), 10_000))
    assert refused.startswith("row 7 of pairs.jsonl ") and reason in refused
    assert len(whole(encode_pair(pair, template_renderer(CHATML), 10_000)).answers) == 2


def test_the_name_of_a_stop_token_in_an_answer_is_text_or_a_refusal_and_never_its_end() -> None:
    pair = replace(PAIR, chosen="It ends<|im_end|> not here.")
    renderer = template_renderer(CHATML)
    first = list(whole(encode_pair(pair, renderer, 10_000)).answers[0])
    assert renderer.tokenizer.decode(first).startswith("It ends<|im_end|> not here.")
    # This template takes the reasoning out of an answer: its special tokens cannot be hidden from it.
    looking = template_renderer(LOOKING)
    whole(encode_pair(PAIR, looking, 10_000))
    refused = encode_pair(replace(PAIR, chosen="<think>so</think>It ends<|im_end|> not here."), looking, 10_000)
    assert "name of a special token" in refusal(refused)


def test_nothing_is_cut_to_fit(ours: ChatRenderer) -> None:
    encoded = whole(encode_pair(LONG, ours, 10_000))
    needed = len(encoded.prompt) + max(map(len, encoded.answers))
    assert encode_pair(LONG, ours, needed) == encoded
    refused = refusal(encode_pair(LONG, ours, needed - 1))
    assert refused.startswith(f"row 7 of pairs.jsonl has {len(encoded.prompt)} tokens of prompt")
    assert f"this model reads {needed - 1}" in refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": " An animal.\n"}, "same answer"),
        ({"chosen": " \n"}, "empty chosen answer"),
        ({"rejected": ""}, "empty rejected answer"),
        ({"messages": []}, "no user turn"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "no user turn"),
        ({"messages": [*PAIR.messages, {"role": "assistant", "content": "Hi"}]}, "answer at the end of its prompt"),
        ({"margin": float("nan")}, "margin nan"),
    ],
)
def test_a_pair_that_says_nothing_is_refused_by_name(ours: ChatRenderer, changes: dict, reason: str) -> None:
    pair = replace(PAIR, **changes)
    with pytest.raises(UserError, match=f"^row 7 of pairs.jsonl has .*{reason}"):
        checked(pair)
    assert reason in refusal(encode_pair(pair, ours, 10_000))
    assert checked(PAIR) is PAIR


def test_a_text_that_is_no_unicode_is_refused_and_not_raised(ours: ChatRenderer) -> None:
    assert "cannot be rendered" in refusal(encode_pair(replace(PAIR, chosen="\ud800"), ours, 10_000))


def test_refusals_are_kept_beside_the_pairs_that_are_learnt(ours: ChatRenderer) -> None:
    encoded = encode_pairs([PAIR, replace(PAIR, chosen=""), LONG], ours, 10_000)
    assert encoded.pairs == [PAIR, LONG]
    assert encoded.prompted == [whole(encode_pair(pair, ours, 10_000)) for pair in (PAIR, LONG)]
    assert len(encoded.refused) == 1 and "empty chosen" in encoded.refused[0]


def test_a_single_answer_has_the_tokens_it_has_in_a_pair(ours: ChatRenderer) -> None:
    row = Labelled(PAIR.messages, PAIR.chosen, True, source="row 1")
    assert whole(encode_labelled(row, ours, 99)).answers == whole(encode_pair(PAIR, ours, 99)).answers[:1]
    assert refusal(encode_labelled(replace(row, completion=" "), ours, 99)).startswith("row 1 has an empty answer")


PAIRS = st.lists(
    st.builds(
        lambda asked, chosen: PreferencePair([{"role": "user", "content": asked}], chosen, "no"),
        st.sampled_from([f"question {n}" for n in range(30)]),
        st.text(),
    ),
    max_size=60,
)


@given(pairs=PAIRS, share=st.floats(0, 1), seed=st.integers(0, 5))
def test_no_prompt_is_on_both_sides_of_a_split(pairs: list[PreferencePair], share: float, seed: int) -> None:
    train, held_out = split_pairs(pairs, share, seed)
    sides = [{prompt_key(pair.messages) for pair in side} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert sorted(map(id, pairs)) == sorted(map(id, train + held_out))
    # A prompt's side depends on nothing but itself and the seed.
    alone = [pair for pair in pairs if split_pairs([pair], share, seed)[1]]
    assert alone == held_out


def test_the_share_of_a_split_is_met_and_the_seed_changes_it() -> None:
    pairs = [replace(PAIR, messages=[{"role": "user", "content": str(n)}]) for n in range(2000)]
    sizes = [len(split_pairs(pairs, share, 0)[1]) for share in (0.0, 0.1, 0.5, 1.0)]
    assert sizes[0] == 0 and 150 < sizes[1] < 250 and 900 < sizes[2] < 1100 and sizes[3] == 2000
    assert split_pairs(pairs, 0.5, 0) != split_pairs(pairs, 0.5, 1)
