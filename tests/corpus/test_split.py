"""The split depends on the text alone, so a text cannot be on both sides."""

from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.digest import content_digest
from cadran.corpus.split import split_corpus, split_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FRACTION = st.floats(0, 0.999)


@given(TEXT, FRACTION)
def test_case_and_spacing_do_not_change_sides(text, fraction):
    other = "\n " + text.replace(" ", " \t ").casefold() + " "
    assert split_of(text, fraction) == split_of(other, fraction)


@given(TEXT, FRACTION, FRACTION)
def test_a_larger_fraction_keeps_what_was_held_out(text, one, other):
    small, large = sorted((one, other))
    if split_of(text, small) == "validation":
        assert split_of(text, large) == "validation"


def test_the_fraction_is_met():
    held_out = sum(split_of(f"document {number}", 0.1) == "validation" for number in range(10_000))
    assert 900 < held_out < 1100  # 1000 +- 3.3 standard deviations


def test_zero_holds_out_nothing():
    assert {split_of(f"document {number}", 0.0) for number in range(1000)} == {"train"}


@given(st.lists(st.text("abc", min_size=1), unique=True, min_size=2, max_size=8), st.floats(0.001, 0.999))
def test_both_sides_of_a_small_corpus_have_a_document(texts, fraction):
    splits, moved = split_corpus([content_digest(text) for text in texts], fraction)
    assert {"train", "validation"} == set(splits)
    plain = [split_of(text, fraction) for text in texts]
    assert sum(one != other for one, other in zip(splits, plain, strict=True)) == int(moved)


def test_which_document_is_moved_does_not_depend_on_the_order():
    texts = [f"text {number}" for number in range(6)]

    def held_out(order: list[str]) -> list[str]:
        splits, _ = split_corpus([content_digest(text) for text in order], 1e-9)
        return [text for text, split in zip(order, splits, strict=True) if split == "validation"]

    assert len(held_out(texts)) == 1
    assert held_out(texts) == held_out(texts[::-1])
