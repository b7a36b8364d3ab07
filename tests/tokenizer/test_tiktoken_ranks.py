"""Ranks of tiktoken as a tokenizer.json, against ``tiktoken`` itself."""

import base64

import pytest
from difficult_strings import strings
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import NASTY
from public_vocabularies import tiktoken_ranks

from cadran.errors import UserError
from cadran.tokenizer.tiktoken_ranks import tokenizer_from_tiktoken
from cadran.tokenizer.tokenizer import Tokenizer

tiktoken = pytest.importorskip("tiktoken")

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_UPPER, _LOWER, _ENDING = (
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
GPT4O = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
PUBLIC = {"r50k_base": GPT2, "p50k_base": GPT2, "cl100k_base": GPT4, "o200k_base": GPT4O}

runs = st.lists(st.tuples(st.sampled_from("ab \n1é"), st.integers(1, 12))).map(
    lambda letters: "".join(letter * count for letter, count in letters)
)


def written(ranks):
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


def both(ranks, pattern):
    special = {"<|endoftext|>": max(ranks.values()) + 1}
    theirs = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return Tokenizer(tokenizer_from_tiktoken(written(ranks), pattern, special)), theirs


@pytest.fixture(scope="module")
def pair(tokenizer):
    """Ranks with many ways to cut a token: what was learnt here, and runs of one letter."""
    tokens = dict.fromkeys(bytes([byte]) for byte in range(256))
    tokens |= dict.fromkeys(tokenizer.token_bytes(id) for id in range(263, tokenizer.vocabulary_size))
    tokens |= dict.fromkeys(b"a" * count for count in (2, 3, 4, 6, 9)) | dict.fromkeys(
        (b"ab", b"aab", b"ba", b"bab", b"xyz")
    )
    return both({token: rank for rank, token in enumerate(tokens)}, GPT4)


@given(text=st.one_of(strings, runs))
def test_ids_are_those_of_tiktoken(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text
    marked = f"{text}<|endoftext|>{text}"
    assert ours.encode(marked, special=True) == theirs.encode(marked, allowed_special="all")


def test_a_token_that_no_merges_lead_to_is_found_when_it_is_a_whole_piece(pair):
    ours, theirs = pair
    assert len(ours.encode("xyz")) == 1
    for text in ("xyz", "xyzx", " xyz"):
        assert ours.encode(text) == theirs.encode_ordinary(text)


@given(text=st.text(alphabet="1234567890 a", max_size=30))
def test_a_possessive_count_is_no_repetition(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.network
@pytest.mark.parametrize("name", PUBLIC)
def test_public_ranks_give_the_ids_of_tiktoken(name):
    ranks = {
        base64.b64decode(token): int(rank) for token, rank in map(str.split, tiktoken_ranks(name).splitlines()) if token
    }
    ours, theirs = both(ranks, PUBLIC[name])
    for text in NASTY:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("text", "special", "complaint"),
    [
        (written(BYTES) + "YWI=", {}, "Line 257"),
        (written(BYTES) + "YWI= x\n", {}, "Line 257"),
        (written(BYTES) + "YWI= -1\n", {}, "Line 257"),
        (written(BYTES) + "YWI= 99999999999\n", {}, "Line 257"),
        (written(BYTES) + "!!! 256\n", {}, "Line 257"),
        (written(BYTES) + "YQ== 256\n", {}, "Line 257"),
        (written(BYTES) + f"{base64.b64encode(bytes(5000)).decode()} 256\n", {}, "Line 257"),
        (written(BYTES) + "YWI= 7\n", {}, "not all different"),
        (written(BYTES), {"<s>": 7}, "not all different"),
        (written(BYTES), {"<s>": 256, "</s>": 256}, "not all different"),
        (written({b"a": 0}), {}, "single byte has no rank"),
        ("", {}, "single byte has no rank"),
    ],
)
def test_damaged_ranks_are_refused(text, special, complaint):
    with pytest.raises(UserError, match=complaint):
        tokenizer_from_tiktoken(text, GPT2, special)
