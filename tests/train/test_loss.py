"""The one loss: equal to the plain one, whatever the pieces, and never NaN."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.train import loss as loss_module
from cadran.train.loss import IGNORED, head_cross_entropy


def random_case(seed: int, positions: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(positions, 6, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.randn(13, 6, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 13, (positions,), generator=generator)
    targets[torch.rand(positions, generator=generator) < 0.3] = IGNORED
    return hidden, head, targets


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    positions=st.integers(1, 40),
    piece=st.sampled_from([1, 3, 7, 64]),
    cap=st.sampled_from([None, 0.7, 30.0]),
)
def test_loss_in_pieces_equals_plain_cross_entropy(seed: int, positions: int, piece: int, cap: float | None) -> None:
    hidden, head, targets = random_case(seed, positions)
    count = int((targets != IGNORED).sum())
    before, loss_module.PIECE = loss_module.PIECE, piece
    try:
        ours = head_cross_entropy(hidden, head, targets, count, cap)
        mine = torch.autograd.grad(ours, (hidden, head))
    finally:
        loss_module.PIECE = before
    if count == 0:
        assert ours.item() == 0.0
        assert all(not g.any() for g in mine)
        return
    logits = hidden @ head.t()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain = F.cross_entropy(logits, targets, ignore_index=IGNORED)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    for a, b in zip(mine, torch.autograd.grad(plain, (hidden, head)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_loss_passes_finite_differences() -> None:
    hidden, head, targets = random_case(3, 9)
    assert torch.autograd.gradcheck(lambda h, w: head_cross_entropy(h, w, targets, 5), (hidden, head))


def test_loss_without_a_gradient_is_the_same_number() -> None:
    hidden, head, targets = random_case(4, 20)
    with torch.no_grad():
        alone = head_cross_entropy(hidden, head, targets, 9)
    assert alone.item() == head_cross_entropy(hidden, head, targets, 9).item()


def test_accumulated_pieces_of_ragged_lengths_add_up_to_the_whole() -> None:
    """The trap: two tokens of loss 1 and six of loss 3 make 2.5, not the mean of means 2.0."""
    logits = torch.zeros(8, 2, dtype=torch.float64)
    logits[:2, 1] = math.log(math.e - 1)  # -log p(0) = 1
    logits[2:, 1] = math.log(math.e**3 - 1)  # -log p(0) = 3
    identity, targets = torch.eye(2, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    parts = [head_cross_entropy(logits[a:b], identity, targets[a:b], 8).item() for a, b in ((0, 2), (2, 8))]
    assert sum(parts) == pytest.approx(2.5, abs=1e-12)


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = head_cross_entropy(hidden, torch.eye(2), torch.tensor([1]), 1)
    value.backward()
    assert value.item() == pytest.approx(2e4)
    assert torch.isfinite(hidden.grad).all()
