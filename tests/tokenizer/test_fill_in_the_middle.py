"""Rearranged documents: nothing is lost, the marks stand where editors expect them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.fill_in_the_middle import cut, rearranged, restored
from cadran.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["L'été, la rivière est calme.", "def add(a, b): return a + b"] * 8, 320)


@given(text=st.text(max_size=60), seed=st.integers(0, 99))
def test_nothing_is_lost_by_cutting_and_rearranging(tokenizer: Tokenizer, text: str, seed: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    parts = cut(text, np.random.default_rng(seed))
    assert "".join(parts) == text
    ids = np.concatenate(([tokenizer.end_of_text], rearranged(tokenizer, parts), [tokenizer.end_of_text]))
    back = restored(tokenizer, ids)
    assert back[0] == back[-1] == tokenizer.end_of_text and len(back) == len(ids) - 3
    assert tokenizer.decode(back[1:-1]) == text


def test_the_middle_comes_last_after_its_mark(tokenizer: Tokenizer) -> None:
    ids = list(rearranged(tokenizer, ("def add(", "a, b", "): return a + b")))
    expected = [tokenizer.fim_prefix, *tokenizer.encode("def add("), tokenizer.fim_suffix]
    expected += [*tokenizer.encode("): return a + b"), tokenizer.fim_middle, *tokenizer.encode("a, b")]
    assert ids == expected


def test_a_document_that_was_not_rearranged_is_restored_to_itself(tokenizer: Tokenizer) -> None:
    ids = np.array([tokenizer.end_of_text, *tokenizer.encode("L'été"), tokenizer.end_of_text])
    assert restored(tokenizer, ids) is ids
