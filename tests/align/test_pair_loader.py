"""The order of preference rows: each once an epoch, the same whenever it is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.branches import Prompted
from cadran.align.pair_loader import PairLoader, fingerprint, named
from cadran.errors import UserError


def items_of(count: int, first: int = 1) -> list[Prompted]:
    return [Prompted((first, number + 1), ((2, 3), (4,))) for number in range(count)]


@given(count=st.integers(1, 40), rows=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_every_item_appears_once_an_epoch_and_every_batch_is_full(count: int, rows: int, seed: int) -> None:
    loader = PairLoader(items_of(count), rows, seed)
    batches = [loader.batch(step) for step in range(3 * count // rows + 1)]
    assert all(len(batch) == rows for batch in batches)
    stream = [index for batch in batches for index in batch]
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert set().union(*map(set, batches[: loader.steps_per_epoch])) == set(range(count))


def test_a_batch_does_not_depend_on_what_was_read_before() -> None:
    items = items_of(10)
    forward = PairLoader(items, 3, seed=5)
    there = [forward.batch(step) for step in range(30)]
    back = PairLoader(items, 3, seed=5)
    assert [back.batch(step) for step in reversed(range(30))][::-1] == there
    assert PairLoader(items, 3, seed=5).batch(17) == there[17]


def test_order_depends_on_seed_epoch_and_content() -> None:
    orders = {tuple(PairLoader(items_of(20), 20, seed).batch(step)) for seed in (0, 1) for step in (0, 1)}
    orders.add(tuple(PairLoader(items_of(20, first=2), 20, 0).batch(0)))
    assert len(orders) == 5


def test_fingerprint_sees_borders_and_masks() -> None:
    variants = [
        Prompted((1, 2), ((3, 4), (5,))),
        Prompted((1,), ((2, 3, 4), (5,))),
        Prompted((1, 2), ((3,), (4, 5))),
        Prompted((1, 2), ((5,), (3, 4))),
        Prompted((1, 2), ((3, 4), (5,)), ((True, True), (True,))),
        Prompted((1, 2), ((3, 4), (5,)), ((True, False), (True,))),
    ]
    assert len({fingerprint([item]) for item in variants}) == len(variants)
    assert fingerprint(variants[:2]) != fingerprint(variants[1::-1])
    assert fingerprint(variants) == fingerprint(list(variants))


def test_no_item_or_no_row_is_refused() -> None:
    with pytest.raises(UserError, match="no row to learn from"):
        PairLoader([], 4, 0)
    with pytest.raises(ValueError, match="a batch of 0"):
        PairLoader(items_of(3), 0, 0)


def test_a_batch_is_named_by_its_rows() -> None:
    assert named([3, 17]) == "pairs 3, 17"
    assert named(range(20), noun="answers") == "answers 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert named([1], ["a.jsonl row 1", "a.jsonl row 2"]) == "a.jsonl row 2"
