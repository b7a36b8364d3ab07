"""Rearranged passages: nothing is lost, the marks stand where editors expect them, and each fits into the context."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.fill_in_the_middle import GAPS, ORDER, Gap, cut, passages, rearranged, taught, with_gaps
from cadran.tokenizer.tokenizer import Tokenizer

LINES = st.text(alphabet=st.sampled_from("ab é\n😀:"), max_size=400)
CODE = "class A:\n    def add(self, a, b):\n        return a + b\n\n" * 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["L'été, la rivière est calme.", "def add(a, b): return a + b\n"] * 8, 320)


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60), seed=st.integers(0, 99))
@pytest.mark.parametrize("gap", GAPS)
def test_nothing_is_lost_by_cutting(text: str, seed: int, gap: Gap) -> None:
    assert "".join(cut(text, np.random.default_rng(seed), gap)) == text


def test_the_gap_of_a_cursor_ends_where_a_line_ends() -> None:
    for seed in range(200):
        _, middle, end = cut(CODE, np.random.default_rng(seed), "line")
        assert end == "" or end.startswith("\n")
        assert len(middle) < len(CODE) or not end


def test_gaps_of_all_kinds_are_cut_when_none_is_asked_for() -> None:
    gaps = [cut(CODE, np.random.default_rng(seed)) for seed in range(300)]
    short = sum(len(middle) <= 12 for _, middle, _ in gaps)
    at_line_ends = sum(end.startswith("\n") for _, _, end in gaps)
    assert short > 50 and at_line_ends > 80
    assert any(middle.count("\n") > 8 for _, middle, _ in gaps)


def test_the_middle_comes_last_after_its_mark(tokenizer: Tokenizer) -> None:
    parts = ("def add(", "a, b", "): return a + b")
    beginning, middle, end = (tokenizer.encode(part) for part in parts)
    before, after = [tokenizer.fim_prefix, *beginning], [tokenizer.fim_suffix, *end]
    assert list(rearranged(tokenizer, parts)) == [*after, *before, tokenizer.fim_middle, *middle]
    assert list(rearranged(tokenizer, parts, "psm")) == [*before, *after, tokenizer.fim_middle, *middle]


@given(text=LINES, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_each_part_of_a_document_is_taught_once_and_what_is_rearranged_fits(
    tokenizer: Tokenizer, text: str, seed: int, share: float
) -> None:
    context = 48
    generator = np.random.default_rng(seed)
    told, size = "", 0
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    for part, length in with_gaps(tokenizer, text, ids, share=share, context=context, generator=generator):
        written = list(part)
        size += length
        if tokenizer.fim_middle not in written:
            told += tokenizer.decode(id for id in written[1:] if id != tokenizer.end_of_text)
            continue
        assert len(written) - 1 <= context and written[0] == written[-1] == tokenizer.end_of_text
        marks = [written.index(mark) for mark in (tokenizer.fim_suffix, tokenizer.fim_prefix, tokenizer.fim_middle)]
        assert marks == sorted(marks)
        after, before, last = marks
        told += tokenizer.decode([*written[before + 1 : last], *written[last + 1 : -1], *written[after + 1 : before]])
    assert told == text and size == len(text.encode())


def test_a_document_that_is_not_rearranged_stands_between_two_ends_of_text(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(CODE))
    ((whole, size),) = with_gaps(tokenizer, CODE, ids, share=0.0, context=64, generator=np.random.default_rng(0))
    assert list(whole) == [tokenizer.end_of_text, *ids, tokenizer.end_of_text] and size == len(CODE)


def test_between_rearranged_passages_a_document_goes_on_from_what_was_before(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(CODE))
    parts = [
        list(part)
        for part, _ in with_gaps(tokenizer, CODE, ids, share=0.5, context=64, generator=np.random.default_rng(3))
    ]
    plain = [part for part in parts if tokenizer.fim_middle not in part]
    assert 2 <= len(plain) < len(parts)
    assert sum(part[0] == tokenizer.end_of_text for part in plain) <= 1
    assert sum(part[-1] == tokenizer.end_of_text for part in plain) <= 1


def test_passages_end_behind_lines(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(CODE))
    texts = [text for _, _, text in passages(tokenizer, CODE, ids, 160, np.random.default_rng(1))]
    assert len(texts) > 4 and "".join(texts) == CODE
    assert all(text.endswith("\n") for text in texts)
    assert len({len(text) for text in texts}) > 2


def test_the_order_of_what_was_taught_is_kept_beside_the_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "plain")
    assert "fim_order" not in Tokenizer.load(tmp_path / "plain").config
    taught(Tokenizer.load(tmp_path / "plain")).save(tmp_path / "taught")
    again = Tokenizer.load(tmp_path / "taught")
    again.save(tmp_path / "chat", chat=True)
    chat = Tokenizer.load(tmp_path / "chat").config
    assert again.config["fim_order"] == chat["fim_order"] == ORDER and "chat_template" in chat
    assert {k: v for k, v in again.config.items() if k != "fim_order"} == Tokenizer.load(tmp_path / "plain").config


def test_the_same_seed_gives_the_same_passages(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(CODE))

    def taught() -> list[list[int]]:
        generator = np.random.default_rng(5)
        return [
            part.tolist() for part, _ in with_gaps(tokenizer, CODE, ids, share=0.5, context=64, generator=generator)
        ]

    assert taught() == taught()
