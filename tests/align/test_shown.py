"""What is shown before training: exactly the learnt tokens are marked, and nothing reaches the terminal raw."""

import re
from html import unescape

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.align.data.shown import AROUND, LEARNT_STYLE, LONGEST, Example, printable, shown_example, shown_examples
from cadran.align.sft_rows import encode_chat
from cadran.corpus.shards import EncodedDocument
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.renderer import ChatRenderer

RENDERER = ChatRenderer(train_bpe(["L'été est là, à Orly. What is a dial? Be brief.\n"] * 5, 400))
TOKENIZER = RENDERER.tokenizer
LETTERS = [id for letter in "abcdefghij" for id in TOKENIZER.encode(letter)]


def document_of(*turns: str) -> EncodedDocument:
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return encode_chat(messages, None, RENDERER, 10_000, "row 1 of data.jsonl")


def coloured(example: Example) -> str:
    """The characters that the terminal shows on the ground of what is learnt."""
    text = example.rich()
    return "".join(text.plain[span.start : span.end] for span in text.spans if LEARNT_STYLE in str(span.style))


def in_html(example: Example) -> str:
    spans = re.findall(r'<span class="learnt[^"]*">(.*?)</span>', example.html(), re.DOTALL)
    return "".join(map(unescape, spans))


def test_an_example_is_shown_in_three_forms() -> None:
    example = shown_example(document_of("What is a <b>dial</b>?", "L'été."), "row 1 of data.jsonl", TOKENIZER)
    assert example.plain() == (
        "<|im_start|>user\nWhat is a <b>dial</b>?<|im_end|>\n<|im_start|>assistant\n[[L'été.<|im_end|>]]"
    )
    assert example.rich().plain == example.plain().replace("[[", "").replace("]]", "")
    assert example.html().endswith(
        'assistant\n<span class="learnt">L&#x27;été.</span><span class="learnt special">&lt;|im_end|&gt;</span>'
    )
    assert "<b>" not in example.html() and '<span class="special">&lt;|im_start|&gt;</span>' in example.html()
    learnt = len(TOKENIZER.encode("L'été.")) + 1
    assert example.heading == (
        f"row 1 of data.jsonl: {example.tokens} tokens, {learnt} learnt ({learnt / example.tokens:.0%})"
    )


@given(st.lists(st.text("aé日 <&>|im_end\n\t\"'", min_size=1).map(lambda text: f"x{text}x"), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_colour_covers_exactly_the_supervised_tokens(turns: list[str]) -> None:
    document = document_of(*turns)
    assert document.supervised is not None
    example = shown_example(document, "row 1", TOKENIZER, around=10_000, longest=10_000)
    learnt = TOKENIZER.decode(int(id) for id in document.ids[document.supervised])
    assert coloured(example) == in_html(example) == learnt
    assert "".join(f"{turn}<|im_end|>" for turn in turns[1::2]) == learnt
    assert example.rich().plain == TOKENIZER.decode(map(int, document.ids))
    assert "".join(re.findall(r"\[\[(.*?)\]\]", example.plain(), re.DOTALL)) == learnt


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 6), st.integers(0, 30), st.data())
@settings(max_examples=80, deadline=None)
def test_a_clipped_example_marks_only_what_is_learnt(
    mask: list[bool], around: int, longest: int, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.sampled_from(LETTERS), min_size=len(mask), max_size=len(mask)))
    example = shown_example(
        EncodedDocument(np.array(ids), 0, "en", np.array(mask)), "row 1", TOKENIZER, around, longest
    )
    assert (example.tokens, example.supervised) == (len(ids), sum(mask))
    left_out = sum(int(piece.text.split()[1]) for piece in example.pieces if piece.kind == "left out")
    shown = "".join(piece.text for piece in example.pieces if piece.kind != "left out")
    assert left_out + len(shown) == len(ids) and len(shown) <= longest
    letters = TOKENIZER.decode(ids)
    at = 0
    for piece in example.pieces:
        if piece.kind == "left out":
            at += int(piece.text.split()[1])
            continue
        assert piece.text == letters[at : at + len(piece.text)]
        assert mask[at : at + len(piece.text)] == [piece.learnt] * len(piece.text)
        at += len(piece.text)
    assert at == len(ids)


def test_a_long_prompt_is_clipped_around_the_border() -> None:
    example = shown_example(document_of("début " * 500 + "fin", "oui " * 500), "row 1", TOKENIZER)
    shown = example.plain()
    assert shown.startswith("<|im_start|>user\ndébut") and "fin<|im_end|>\n<|im_start|>assistant\n[[oui" in shown
    assert shown.endswith("<|im_end|>]]") and shown.count(" tokens … ") == 2
    assert len(shown) < 4 * AROUND * 8 and LONGEST >= 4 * AROUND


def test_control_characters_cannot_reach_the_terminal() -> None:
    hostile = "\x1b[31mred\x07\x9b1m\u202eabc\r\x7f"
    example = shown_example(document_of(f"x{hostile}x", f"y{hostile}y"), f"row\x1b 1{hostile}", TOKENIZER)
    for text in (example.plain(), example.rich().plain, example.html(), example.heading):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "y␛[31mred␇" in example.plain()


@given(st.text())
def test_printable_text_keeps_everything_else(text: str) -> None:
    assert len(printable(text)) == len(text)
    assert all(a == b for a, b in zip(text, printable(text), strict=True) if a.isprintable() or a in "\n\t")


def test_a_character_of_several_tokens_is_shown_whole() -> None:
    document = document_of("日本語", "😀é")
    assert document.supervised is not None and document.supervised.sum() > 4  # bytes, as the tokenizer never saw them
    assert "[[😀é<|im_end|>]]" in shown_example(document, "row 1", TOKENIZER).plain()


def test_three_examples_come_from_the_beginning_the_middle_and_the_end() -> None:
    documents = [document_of("a", f"answer {number}") for number in range(9)]
    names = [f"row {number}" for number in range(9)]
    assert [each.source for each in shown_examples(documents, names, TOKENIZER)] == ["row 0", "row 4", "row 8"]
    assert [each.source for each in shown_examples(documents[:2], names, TOKENIZER)] == ["row 0", "row 1"]
    assert [each.source for each in shown_examples(documents, names, TOKENIZER, count=1)] == ["row 0"]
    assert shown_examples([], [], TOKENIZER) == []
