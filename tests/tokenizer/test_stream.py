import pytest
from difficult_strings import FRAGMENTS, strings
from hypothesis import example, given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.stream import IncrementalDecoder


def byte_ids(tokenizer, text):
    """The same text as single-byte tokens, so that every character beyond ASCII is split."""
    single = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocabulary_size)}
    return [single[bytes([byte])] for byte in text.encode("utf-8")]


@given(text=strings)
@example(text="".join(FRAGMENTS))
@example(text="👩‍👩‍👧😀é")
def test_pieces_concatenate_to_the_text_and_no_half_character_is_shown(tokenizer, text):
    for ids in (tokenizer.encode(text), byte_ids(tokenizer, text)):
        decoder = IncrementalDecoder(tokenizer)
        pieces = [decoder.push(id) for id in ids]
        assert "".join(pieces) == text
        assert decoder.flush() == ""


@given(ids=st.lists(st.integers(0, 399)), skip_special=st.booleans())
def test_any_ids_stream_to_what_decode_gives(tokenizer, ids, skip_special):
    decoder = IncrementalDecoder(tokenizer, skip_special)
    streamed = "".join(decoder.push(id) for id in ids) + decoder.flush()
    assert streamed == tokenizer.decode(ids, skip_special)


def test_a_character_appears_with_its_last_byte(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(id) for id in byte_ids(tokenizer, "a😀")] == ["a", "", "", "", "😀"]


def test_an_unfinished_character_is_marked_at_the_end_and_the_decoder_starts_anew(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    for id in byte_ids(tokenizer, "😀")[:2]:
        assert decoder.push(id) == ""
    assert decoder.flush() == "\ufffd"
    assert "".join(decoder.push(id) for id in tokenizer.encode("été")) == "été"


def test_an_id_outside_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(UserError, match="outside the vocabulary"):
        IncrementalDecoder(tokenizer).push(400)
