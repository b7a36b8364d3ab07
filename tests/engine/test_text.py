"""Stop strings and half characters: what is shown does not depend on how tokens cut the text."""

import pytest
from difficult_strings import strings
from hypothesis import example, given
from hypothesis import strategies as st
from small_tokenizers import small_tokenizer

from cadran.engine.text import TextStream
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = ["The plane landed at the airport. L'avion de l'été s'est posé à l'aéroport d'Orly. abcabdab\n"] * 3
OURS = train_bpe(TEXTS, 320)
KINDS = {"ours": OURS, **{kind: Tokenizer(small_tokenizer(kind)) for kind in ("llama", "gemma", "unigram")}}
SINGLE = {OURS.token_bytes(id): id for id in range(OURS.vocabulary_size)}

some_ids = st.lists(st.integers(0, min(kind.vocabulary_size for kind in KINDS.values()) - 1), max_size=60)
# Few letters, so that stop strings do occur, overlap, and hold one another.
tight = st.text(alphabet="ab\n😀é", max_size=40)
stops = st.lists(st.text(alphabet="ab\n😀é", min_size=1, max_size=5), max_size=6)


def bytes_of(text):
    """The text as single-byte tokens, so that every character beyond ASCII is split."""
    return [SINGLE[bytes([byte])] for byte in text.encode("utf-8")]


def cut(text, stop):
    """What a reader of the whole text would keep: up to the stop that is complete first, of several the longest."""
    for end in range(1, len(text) + 1):
        ending = [one for one in stop if text[:end].endswith(one)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def streamed(tokenizer, ids, stop, **options):
    stream = TextStream(tokenizer, stop, **options)
    pieces = []
    for id in ids:
        pieces.append(stream.push(id))
        if stream.stopped is not None:
            assert stream.push(id) == ""
            break
    pieces.append(stream.flush())
    return "".join(pieces), stream.stopped


@given(text=tight, stop=stops)
@example(text="abcab", stop=["abc", "b"])
def test_streamed_is_whole_for_any_stop_strings_and_any_cut(text, stop):
    expected = cut(text, stop)
    assert streamed(OURS, bytes_of(text), stop) == expected
    assert streamed(OURS, OURS.encode(text), stop) == expected


@given(ids=some_ids, stop=stops, kind=st.sampled_from(sorted(KINDS)), skip=st.booleans())
def test_streamed_is_whole_for_any_ids_of_any_vocabulary(ids, stop, kind, skip):
    tokenizer = KINDS[kind]
    whole, stopped = streamed(tokenizer, ids, [], skip_special=skip, continues=False)
    assert (whole, stopped) == (tokenizer.decode(ids, skip_special=skip), None)
    assert streamed(tokenizer, ids, stop, skip_special=skip, continues=False) == cut(whole, stop)


@given(text=strings, stop=stops)
def test_only_the_possible_beginning_of_a_stop_string_is_withheld(text, stop):
    stream, shown = TextStream(OURS, stop), ""
    for length, character in enumerate(text, start=1):
        for id in bytes_of(character):
            shown += stream.push(id)
        if stream.stopped is not None:
            return
        certain = text[:length]
        begins = [n for one in stop for n in range(1, len(one)) if certain.endswith(one[:n])]
        assert shown == certain[: length - max(begins, default=0)]


def test_stop_string_split_across_tokens_is_not_emitted():
    ids = OURS.encode("The plane landed at the airport.")
    assert len(OURS.encode(" landed at")) > 1
    assert streamed(OURS, ids, [" landed at"]) == ("The plane", " landed at")


def test_of_a_stop_string_and_a_longer_one_that_begins_with_it_the_shorter_wins():
    assert streamed(OURS, bytes_of("xabcd"), ["abcd", "ab"]) == ("x", "ab")
    assert streamed(OURS, bytes_of("xabcd"), ["ab", "abcd"]) == ("x", "ab")


def test_of_stop_strings_that_end_together_the_one_that_began_first_wins():
    assert streamed(OURS, bytes_of("xabc"), ["bc", "abc", "c"]) == ("x", "abc")


def test_a_stop_string_that_never_completes_is_given_back_at_the_end():
    stream = TextStream(OURS, ["airport!"])
    assert "".join(stream.push(id) for id in bytes_of("the airport")) == "the "
    assert (stream.flush(), stream.stopped) == ("airport", None)


def test_a_stop_string_in_bytes_that_waited_for_the_end_is_found():
    llama = KINDS["llama"]
    raw = [next(id for id in range(llama.vocabulary_size) if llama.token_bytes(id) == bytes([b])) for b in b"\xf0\x9f"]
    tail = [id for id in range(llama.vocabulary_size) if llama.token_bytes(id) in (b"\x98", b"\x80")]
    tail.sort(key=lambda id: llama.token_bytes(id), reverse=True)
    stream = TextStream(llama, ["😀"])
    assert [stream.push(id) for id in raw + tail] == ["", "", "", ""]
    assert (stream.flush(), stream.stopped) == ("", "😀")


def test_an_unfinished_character_is_marked_at_the_end():
    stream = TextStream(OURS, ["zz"])
    assert [stream.push(id) for id in bytes_of("a😀")[:3]] == ["a", "", ""]
    assert stream.flush() == "\ufffd"


def test_special_tokens_are_hidden_unless_wanted_and_never_half_of_a_stop_string():
    ids = [*bytes_of("a"), OURS.im_end, *bytes_of("b")]
    assert streamed(OURS, ids, ["zz"]) == ("ab", None)
    assert streamed(OURS, ids, ["ab"]) == ("", "ab")
    assert streamed(OURS, ids, ["<|im_end|>"], skip_special=False) == ("a", "<|im_end|>")


def test_an_answer_keeps_the_space_before_its_first_word():
    llama = KINDS["llama"]
    ids = llama.encode("plane")
    assert streamed(llama, ids, []) == (" plane", None)
    assert streamed(llama, ids, [" "]) == ("", " ")


def test_one_stop_string_may_be_given_without_a_list():
    assert streamed(OURS, bytes_of("xaby"), "ab") == ("x", "ab")


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="empty"):
        TextStream(OURS, ["a", ""])
