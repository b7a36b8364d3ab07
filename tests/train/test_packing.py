"""Packing loses nothing, repeats nothing, and is a pure function."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.shards import EncodedDocument, TokenShard, write_shard
from cadran.errors import UserError
from cadran.train.loader import PADDING_SEGMENT, TokenLoader
from cadran.train.loss import IGNORED
from cadran.train.packing import epoch_rows, pack

lengths = st.lists(st.integers(0, 50), min_size=1, max_size=60)


@given(lengths=lengths, context=st.integers(1, 40), seed=st.integers(0, 9))
def test_every_pair_stands_exactly_once_in_rows_that_are_full(lengths: list[int], context: int, seed: int) -> None:
    rows = epoch_rows(lengths, context, seed, 0, split=True)
    seen = Counter((p.document, i) for row in rows for p in row for i in range(p.start, p.start + p.length))
    assert seen == Counter((d, i) for d, n in enumerate(lengths) for i in range(n))
    assert all(sum(p.length for p in row) == context for row in rows[:-1])
    assert len(rows) == -(-sum(lengths) // context)


@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_without_splitting_documents_stay_whole(lengths: list[int], seed: int) -> None:
    rows = epoch_rows(lengths, 20, seed, 0, split=False)
    pieces = [p for row in rows for p in row]
    assert sorted((p.document, p.start, p.length) for p in pieces) == [(d, 0, n) for d, n in enumerate(lengths) if n]
    assert all(sum(p.length for p in row) <= 20 for row in rows)


def test_a_document_longer_than_a_row_is_refused_without_splitting() -> None:
    with pytest.raises(ValueError, match="9 pairs and a row 8"):
        pack([9], 8, [0], split=False)


def test_whole_documents_are_preferred_to_cut_ones() -> None:
    """Two documents fill a row exactly although a third, too long, came first."""
    rows = pack([7, 4, 6, 3], 10, [0, 1, 2, 3], split=True)
    assert [[p.length for p in row] for row in rows] == [[7, 3], [6, 4]]


def shard_of(folder: Path, documents: list[list[int]], supervised: bool = False) -> TokenShard:
    return write_shard(
        folder,
        [
            EncodedDocument(
                np.array(d), 3 * len(d), "en" if i % 2 else "fr",
                np.array([t % 2 == 0 for t in d]) if supervised else None,
            )
            for i, d in enumerate(documents)
        ],
        vocabulary=100,
    )  # fmt: skip


DOCUMENTS = [[0, *range(10 * i + 1, 10 * i + 2 + i), 0] for i in range(9)]


def test_batches_are_a_pure_function_of_the_step(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, DOCUMENTS)
    forward = TokenLoader(shard, 8, 3, seed=5)
    batches = [forward.batch(step) for step in range(12)]
    backward = TokenLoader(TokenShard.open(tmp_path), 8, 3, seed=5)
    for step in reversed(range(12)):
        again = backward.batch(step)
        assert torch.equal(again.ids, batches[step].ids) and torch.equal(again.targets, batches[step].targets)
    other = TokenLoader(shard, 8, 3, seed=6)
    assert any(not torch.equal(other.batch(s).ids, batches[s].ids) for s in range(12))


def test_an_epoch_of_batches_holds_every_pair_once_and_targets_follow_inputs(tmp_path: Path) -> None:
    loader = TokenLoader(shard_of(tmp_path, DOCUMENTS), 8, 1, seed=0)
    pairs: Counter[tuple[int, int]] = Counter()
    for step in range(loader.rows_in_epoch()):
        batch = loader.batch(step)
        for i, t, s in zip(batch.ids[0].tolist(), batch.targets[0].tolist(), batch.segments[0].tolist(), strict=True):
            assert (t == IGNORED) == (s == PADDING_SEGMENT)
            if t != IGNORED:
                pairs[i, t] += 1
    assert pairs == Counter(pair for d in DOCUMENTS for pair in pairwise(d))


def test_supervision_belongs_to_the_target(tmp_path: Path) -> None:
    loader = TokenLoader(shard_of(tmp_path, DOCUMENTS, supervised=True), 16, 2, seed=0, split=False)
    for step in range(3):
        batch = loader.batch(step)
        learnt = batch.targets[batch.targets != IGNORED]
        assert (learnt % 2 == 0).all() and batch.valid == len(learnt)


def test_the_order_depends_on_the_content(tmp_path: Path) -> None:
    a = TokenLoader(shard_of(tmp_path / "a", DOCUMENTS), 8, 3, seed=5)
    changed = [[t + 1 for t in d] for d in DOCUMENTS]
    b = TokenLoader(shard_of(tmp_path / "b", changed), 8, 3, seed=5)
    assert any(not torch.equal(a.batch(s).ids + 1, b.batch(s).ids) for s in range(5))


def test_shard_reads_back_what_was_written(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, DOCUMENTS)
    assert [shard.ids(i).tolist() for i in range(shard.documents)] == DOCUMENTS
    assert shard.tokens.dtype == np.dtype("<u2")
    assert shard.text_bytes.tolist() == [3 * len(d) for d in DOCUMENTS]
    assert [shard.languages[c] for c in shard.language_of] == ["fr", "en"] * 4 + ["fr"]
    again = shard_of(tmp_path / "again", DOCUMENTS)
    assert again.fingerprint == shard.fingerprint
    assert shard_of(tmp_path / "other", DOCUMENTS[:-1]).fingerprint != shard.fingerprint


def test_a_cut_or_missing_shard_is_refused(tmp_path: Path) -> None:
    shard_of(tmp_path, DOCUMENTS)
    tokens = tmp_path / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(UserError, match="--from tokenizer"):
        TokenShard.open(tmp_path)
    with pytest.raises(UserError, match="--from tokenizer"):
        TokenShard.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no document"):
        write_shard(tmp_path / "empty", [], 10)


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, [EncodedDocument(np.array([0, 70_000, 0]), 4, "en")], 80_000)
    assert shard.ids(0).tolist() == [0, 70_000, 0]
