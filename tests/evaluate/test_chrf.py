import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.evaluate.chrf import chrf

WORDS = st.lists(st.sampled_from(["chat", "cat", "maison", "house", "le", "the", "été"]), min_size=1, max_size=6)
SENTENCES = WORDS.map(" ".join)


def test_score_counted_by_hand():
    # 1-grams: 1 of 2 shared; 2-grams: 0 of 1; precision = recall = (1/2 + 0) / 2.
    assert chrf(["ab"], ["ac"]) == pytest.approx(25)


def test_recall_counts_twice():
    # "ab" against "abcd": precision 1, recall (2/4 + 1/3 + ...) is lower; the reverse swaps them.
    assert chrf(["abcd"], ["ab"]) > chrf(["ab"], ["abcd"])


def test_nothing_shared_is_zero():
    assert chrf(["aaaa", "bbbb"], ["cccc", "dddd"]) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(SENTENCES, min_size=1, max_size=5))
def test_equal_texts_score_100(texts):
    assert chrf(texts, texts) == pytest.approx(100)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6), st.randoms())
def test_score_is_bounded_and_does_not_depend_on_the_order_of_pairs(pairs, random):
    score = chrf([h for h, _ in pairs], [r for _, r in pairs])
    assert 0 <= score <= 100
    random.shuffle(pairs)
    assert chrf([h for h, _ in pairs], [r for _, r in pairs]) == pytest.approx(score)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 hypotheses"):
        chrf(["a"], ["a", "b"])


def test_no_text_is_the_users_error():
    with pytest.raises(UserError, match="held-out rows"):
        chrf([], [])


def test_import_alone_does_not_load_sacrebleu():
    check = "import sys, cadran.evaluate.chrf; sys.exit('sacrebleu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
