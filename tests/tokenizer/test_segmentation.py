import itertools

import pytest
from difficult_strings import strings
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.segmentation import bytes_per_token, coloured, printable, segment


@given(text=strings)
def test_the_pieces_are_the_tokens_and_bytes_of_the_text(tokenizer, text):
    pieces = segment(tokenizer, text)
    assert [piece.id for piece in pieces] == tokenizer.encode(text)
    assert b"".join(piece.raw for piece in pieces) == text.encode("utf-8")


@given(raw=st.binary(min_size=1))
def test_nothing_printed_is_invisible(raw):
    assert printable(raw)
    assert printable(raw).isprintable()
    assert " " not in printable(raw)


def test_white_space_and_parts_of_characters_have_marks():
    assert printable(b" a\t\r\n") == "·a→␍↵"
    assert printable(b"\xc3") == "\\xC3"
    assert printable("é\u00a0".encode()) == "é\\u{A0}"


def test_neighbouring_tokens_have_different_backgrounds(tokenizer):
    text = "L'avion 1998"
    spans = coloured(tokenizer, text).spans
    assert len(spans) == len(tokenizer.encode(text)) > 3
    assert all(left.style != right.style for left, right in itertools.pairwise(spans))


def test_a_line_break_is_marked_then_made(tokenizer):
    assert coloured(tokenizer, "a\nb c").plain == "a↵\nb·c"


def test_bytes_per_token_counts_bytes_not_characters(tokenizer):
    texts = {"fr": ["été", "l'avion"], "en": ["the plane"]}
    figures = bytes_per_token(tokenizer, texts)
    assert figures["en"] == 9 / len(tokenizer.encode("the plane"))
    assert figures["fr"] == (5 + 7) / (len(tokenizer.encode("été")) + len(tokenizer.encode("l'avion")))


@pytest.mark.parametrize("texts", [[], [""]])
def test_a_language_without_text_is_named(tokenizer, texts):
    with pytest.raises(UserError, match="'de'"):
        bytes_per_token(tokenizer, {"de": texts})
