"""SentencePiece's joining by scores, written here as its paper has it, against the list of merges."""

import itertools
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf
from cadran.tokenizer.scored_merges import merges_from_scores, scores_from_merges
from cadran.tokenizer.tokenizer import Tokenizer

LETTERS = "abc"


def joined(text, scores):
    """The pieces of a text: the neighbours whose union has the best score are joined, the leftmost of equals."""
    pieces = list(text)
    while True:
        unions = [left + right for left, right in itertools.pairwise(pieces)]
        known = [(-scores[union], place) for place, union in enumerate(unions) if union in scores]
        if not known:
            return pieces
        _, place = min(known)
        pieces[place : place + 2] = [unions[place]]


@st.composite
def vocabularies(draw):
    """Letters and longer pieces that grow out of shorter ones, as training makes them."""
    pieces = list(LETTERS)
    for _ in range(draw(st.integers(0, 12))):
        piece = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if piece not in pieces:
            pieces.append(piece)
    return {piece: -float(rank) for rank, piece in enumerate(pieces)}


def metadata(scores):
    tokens = ["<unk>", *scores]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, *scores.values()],
        "tokenizer.ggml.token_type": [2, *[1] * len(scores)],
        "tokenizer.ggml.add_space_prefix": False,
    }


@given(scores=vocabularies(), text=st.text(alphabet=LETTERS, max_size=24))
def test_merges_join_as_the_scores_do(scores, text):
    tokenizer = Tokenizer(tokenizer_from_gguf(metadata(scores))[0])
    assert [tokenizer.token_bytes(id).decode() for id in tokenizer.encode(text)] == joined(text, scores)


@given(scores=vocabularies())
def test_scores_and_merges_lead_to_each_other(scores):
    merges = merges_from_scores(scores)
    assert merges_from_scores(scores_from_merges(scores, merges)) == merges


@given(scores=vocabularies(), order=st.randoms())
def test_the_order_of_the_pieces_does_not_matter(scores, order):
    assume(len(scores) > len(LETTERS))
    shuffled = list(scores.items())
    order.shuffle(shuffled)
    assert merges_from_scores(dict(shuffled)) == merges_from_scores(scores)


def test_pieces_that_no_merge_makes_score_least():
    scores = scores_from_merges(["a", "b", "ab", "zz"], [("a", "b")])
    assert scores["ab"] > scores["zz"]


@pytest.mark.parametrize("scores", [{"a" * 2000: 0.0}, {"a": float("nan")}])
def test_absurd_pieces_are_refused(scores):
    with pytest.raises(UserError, match="fetch the file anew"):
        merges_from_scores(scores)


def test_the_file_that_is_made_is_the_same_each_time():
    scores = {"a": 0.0, "b": 0.0, "ab": -1.0}
    first, again = (tokenizer_from_gguf(metadata(scores))[0] for _ in range(2))
    assert first == again
    assert json.loads(first)["model"]["merges"] == [["a", "b"]]
