"""Tokenizers of other makers, one small one of each kind, against the library that made them."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from difficult_strings import strings
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import BOS, EOS, KINDS, small_tokenizer

from cadran.errors import UserError
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer

TURN = "<|turn|>"
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def with_parts(kind, **parts):
    return json.dumps(json.loads(small_tokenizer(kind, (TURN,))) | parts)


SERIALISED = {kind: small_tokenizer(kind, (TURN,)) for kind in KINDS}
SERIALISED["metaspace"] = with_parts("unigram without bytes", decoder=METASPACE)
SERIALISED["several spaces stripped"] = with_parts(
    "llama",
    decoder={
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 3, "stop": 0},
        ],
    },
)
OURS = {kind: Tokenizer(text) for kind, text in SERIALISED.items()}
LIBRARY = {kind: tokenizers.Tokenizer.from_str(text) for kind, text in SERIALISED.items()}

kinds = st.sampled_from(sorted(SERIALISED))


def streamed(tokenizer, ids, skip=False):
    decoder = IncrementalDecoder(tokenizer, skip)
    return [*map(decoder.push, ids), decoder.flush()]


@given(kind=kinds, text=strings)
def test_ids_are_those_of_the_library(kind, text):
    assert OURS[kind].encode(text, special=True) == LIBRARY[kind].encode(text, add_special_tokens=False).ids
    assert OURS[kind].encode_batch([text])[0].tolist() == OURS[kind].encode(text)


@given(kind=kinds, ids=st.lists(st.integers(0, 555)), skip=st.booleans())
def test_any_ids_give_the_text_of_the_library_whole_and_in_pieces(kind, ids, skip):
    ids = [id % OURS[kind].vocabulary_size for id in ids]
    theirs = LIBRARY[kind].decode(ids, skip_special_tokens=skip)
    assert OURS[kind].decode(ids, skip) == theirs
    assert "".join(streamed(OURS[kind], ids, skip)) == theirs


@given(kind=st.sampled_from(["llama", "gemma", "unigram"]), raw=st.lists(st.sampled_from("é😀a \x80\xff")))
def test_runs_of_byte_tokens_give_the_text_of_the_library(kind, raw):
    single = {OURS[kind].token_bytes(id): id for id in range(OURS[kind].vocabulary_size)}
    ids = [single[bytes([byte])] for letter in raw for byte in letter.encode("utf-8" if letter > "\xff" else "latin-1")]
    ids += OURS[kind].encode("fin")
    assert OURS[kind].decode(ids) == LIBRARY[kind].decode(ids) == "".join(streamed(OURS[kind], ids))


@given(kind=kinds, text=strings.filter(lambda text: "\ufffd" not in text))
def test_half_a_character_is_never_shown(kind, text):
    tokenizer = OURS[kind]
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    assert "\ufffd" not in whole
    shown = ""
    for piece in streamed(tokenizer, ids):
        shown += piece
        assert whole.startswith(shown)


@given(kind=st.sampled_from(["bytes", "llama", "gemma"]), text=strings.filter(lambda text: "▁" not in text))
def test_nothing_is_lost_where_every_byte_has_a_token(kind, text):
    if kind == "llama" or not text:
        text = f"a{text}"  # Llama puts one space before a text and takes one away again: all but its own spaces
    assert OURS[kind].decode(OURS[kind].encode(text)) == text


@pytest.mark.parametrize(("kind", "first"), [("llama", "The"), ("gemma", " The"), ("metaspace", "The")])
def test_the_space_before_the_first_word_is_kept_only_where_other_text_stands_before(kind, first):
    tokenizer = OURS[kind]
    ids = tokenizer.encode(" The" if kind == "gemma" else "The")
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == first
    decoder = IncrementalDecoder(tokenizer, continues=True)
    for _ in range(2):  # also after flush
        assert "".join([*map(decoder.push, ids), decoder.flush()]) == " The"
    assert b"".join(map(tokenizer.token_bytes, ids)) == b" The"


@pytest.mark.parametrize("spaces", range(6))
@pytest.mark.parametrize("kind", ["llama", "several spaces stripped"])
def test_no_more_spaces_are_taken_off_than_the_decoder_says(kind, spaces):
    tokenizer, core = OURS[kind], LIBRARY[kind]
    ids = [core.token_to_id("▁")] * spaces + tokenizer.encode("The") + [core.token_to_id("▁")] * 2
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == core.decode(ids, skip_special_tokens=False)


def test_a_long_text_is_not_cut_where_every_piece_would_get_a_space(monkeypatch):
    monkeypatch.setattr("cadran.tokenizer.tokenizer.bounded_pieces", lambda text: iter((text[:4], text[4:])))
    prefixed = json.loads(SERIALISED["bytes"])
    prefixed["pre_tokenizer"]["add_prefix_space"] = True
    for tokenizer in (OURS["llama"], OURS["unigram"], Tokenizer(json.dumps(prefixed))):
        ids = tokenizer.encode("The plane landed")
        assert tokenizer.decode(ids).strip() == "The plane landed"
        assert tokenizer.encode_batch(["The plane landed"])[0].tolist() == ids
        assert b"".join(map(tokenizer.token_bytes, ids)) == b" The plane landed"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_read_only_when_asked_for(kind):
    tokenizer, core = OURS[kind], LIBRARY[kind]
    typed = f"{BOS}user{TURN} Hello{EOS}"
    ids = tokenizer.encode(typed, special=True)
    assert ids == core.encode(typed, add_special_tokens=False).ids
    names = {core.token_to_id(name) for name in (BOS, TURN, EOS)}
    assert names <= set(ids)
    assert not names & set(tokenizer.encode(typed))


class Slow:
    """The library's tokenizer when it takes its time, which gives other threads theirs."""

    def __init__(self, core):
        self._core = core

    @property
    def encode_special_tokens(self):
        return self._core.encode_special_tokens

    @encode_special_tokens.setter
    def encode_special_tokens(self, value):
        self._core.encode_special_tokens = value

    def encode(self, *arguments, **options):
        time.sleep(0.002)
        return self._core.encode(*arguments, **options)


def test_threads_in_both_modes_do_not_disturb_each_other():
    tokenizer = Tokenizer(SERIALISED["bytes"])
    typed = f"Hello{TURN} there"
    expected = {special: tokenizer.encode(typed, special) for special in (False, True)}
    assert expected[False] != expected[True]
    tokenizer._core = Slow(tokenizer._core)
    with ThreadPoolExecutor(6) as pool:
        modes = [number % 2 == 0 for number in range(60)]
        assert list(pool.map(lambda special: tokenizer.encode(typed, special), modes)) == [
            expected[mode] for mode in modes
        ]


def test_a_mark_that_its_file_forgot_to_flag_cannot_be_forged_but_is_shown():
    content = json.loads(SERIALISED["bytes"])
    content["added_tokens"][-1] |= {"content": "<｜User｜>", "special": False}
    tokenizer = Tokenizer(json.dumps(content))
    (mark,) = tokenizer.encode("<｜User｜>", special=True)
    assert mark not in tokenizer.encode("<｜User｜>")
    assert tokenizer.decode(tokenizer.encode("<｜User｜>")) == "<｜User｜>"
    assert tokenizer.is_special(mark)
    assert tokenizer.decode([mark], skip_special=True) == "<｜User｜>"


def test_ordinary_added_tokens_are_found_in_any_text():
    content = json.loads(SERIALISED["bytes"])
    content["added_tokens"][-1] |= {"content": "<think>", "special": False}
    tokenizer = Tokenizer(json.dumps(content))
    assert tokenizer.encode("<think>") == tokenizer.encode("<think>", special=True)
    assert len(tokenizer.encode("<think>")) == 1


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        {
            "type": "Sequence",
            "decoders": [METASPACE, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}],
        },
        {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
        {"type": "Sequence", "decoders": []},
    ],
)
def test_a_decoder_of_another_kind_is_refused_by_name(decoder):
    named = "absent" if decoder is None else (decoder.get("decoders") or [{"type": "absent"}])[-1]["type"]
    named = named if decoder is None or decoder["type"] == "Sequence" else decoder["type"]
    with pytest.raises(UserError, match=f"does not work on bytes.*{named}.*Unigram"):
        Tokenizer(with_parts("llama", decoder=decoder))


def test_ids_that_a_file_merely_claims_are_not_allocated():
    content = json.loads(SERIALISED["bytes"])
    content["model"]["vocab"]["zzzz"] = 4_000_000_000
    with pytest.raises(UserError, match="ids up to 4000000000"):
        Tokenizer(json.dumps(content))


def test_an_id_without_a_token_inside_the_vocabulary_is_empty():
    content = json.loads(SERIALISED["bytes"])
    content["model"]["vocab"]["zzzz"] = 999
    tokenizer = Tokenizer(json.dumps(content))
    assert tokenizer.vocabulary_size == 1000
    assert tokenizer.decode([900, *tokenizer.encode("Hello"), 901]) == "Hello"
    with pytest.raises(UserError, match="outside the vocabulary of 1000"):
        tokenizer.decode([1000])


@given(kind=st.sampled_from(["bytes", "llama", "unigram"]), data=st.data())
def test_a_file_with_a_changed_place_opens_or_is_refused_and_never_crashes(kind, data):
    text = SERIALISED[kind]
    place = data.draw(st.integers(0, len(text) - 1) | st.integers(0, 3000))
    changed = text[:place] + data.draw(st.sampled_from('"{}[]:,0919ea\\ \x00é')) + text[place + 1 :]
    try:
        tokenizer = Tokenizer(changed)
        ids = tokenizer.encode(f"Hello{TURN} été", special=data.draw(st.booleans()))
        assert isinstance(tokenizer.decode(ids), str)
        assert len(tokenizer.bytes_per_token) == tokenizer.vocabulary_size
        _ = tokenizer.bos, tokenizer.eos_ids, tokenizer.adds_bos, tokenizer.adds_eos
    except UserError:
        pass
