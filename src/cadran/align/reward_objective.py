"""What a reward model learns from, pairs of which one answer was preferred, and how well it has learnt it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Prompted, pack_for
from cadran.align.calibration import calibrate
from cadran.align.losses.reward import bradley_terry_losses
from cadran.align.pair_loader import PairLoader, named
from cadran.align.reward_model import RewardModel
from cadran.evaluate.classification import wilson_interval
from cadran.train.objective import Learnt


class RewardObjective:
    """Bradley-Terry likelihood of the recorded preferences.

    Args:
        model: what is trained, in the units of its ``scores``: normalising belongs after the training.
        items: two answers each, the chosen one first.
        margins: how far apart the scores of each item should be, shape (I,); None asks for none.
        loader: the order of the items.
        micro: pairs of one forward and backward pass; a batch of more is accumulated.
        dtype: of the matrix products; None takes the weights' own.
        centring: weight of the squared sum of the two scores.
        pad: id put in empty positions.
        sources: names of the items for an error message; may be empty.

    Raises:
        ValueError: an item without two answers, or margins that do not fit.
    """

    period = 1

    def __init__(
        self,
        model: RewardModel,
        items: Sequence[Prompted],
        margins: Sequence[float] | None,
        loader: PairLoader,
        micro: int,
        dtype: torch.dtype | None = None,
        *,
        centring: float = 0.0,
        pad: int = 0,
        sources: Sequence[str] = (),
    ) -> None:
        check_pairs(items)
        if margins is not None and len(margins) != len(items):
            raise ValueError(f"{len(margins)} margins do not fit {len(items)} pairs")
        self.model, self.items, self.margins, self.loader = model, items, margins, loader
        self.micro, self.dtype, self.centring, self.pad, self.sources = micro, dtype, centring, pad, sources

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the mean loss over the loader's batch number ``step``; dropout is off."""
        self.model.eval()
        indices = self.loader.batch(step)
        total, tokens, chosen, rejected = 0.0, 0, [], []
        for start in range(0, len(indices), self.micro):
            piece = indices[start : start + self.micro]
            batch = pack_for(self.model.transformer, [self.items[i] for i in piece], self.pad)
            scores = self.model.scores(batch, self.dtype)
            better, worse = scores[0::2], scores[1::2]
            margins = 0.0 if self.margins is None else better.new_tensor([self.margins[i] for i in piece])
            loss = bradley_terry_losses(better, worse, margins, self.centring).sum() / len(indices)
            loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss.detach()), tokens + batch.tokens
            chosen.append(better.detach())
            rejected.append(worse.detach())
        figures = pair_figures(torch.cat(chosen), torch.cat(rejected))
        return Learnt(total, figures, named(indices, self.sources), tokens)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order is a function of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def examine_rewards(
    model: RewardModel,
    items: Sequence[Prompted],
    kinds: Sequence[str],
    *,
    micro: int,
    dtype: torch.dtype | None = None,
    pad: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """How a reward model does on pairs that it has not learnt from.

    Args:
        model: its ``scores`` are compared; a tie counts as wrong.
        items: two answers each, the chosen one first; at least one.
        kinds: of each item, for figures apart.
        micro: pairs of one forward pass.
        dtype: of the matrix products.
        pad: id put in empty positions.
        seed: of the order in which the answers enter the calibration.

    Returns:
        ``accuracy``, its 95 % ``interval``, ``by_kind`` (accuracy and pairs), ``calibration`` (predicted, observed and
        pairs of each bin), ``calibration_error``.

    Raises:
        ValueError: there is no pair, or one without two answers.
    """
    check_pairs(items)
    model.eval()
    differences: list[float] = []
    with torch.no_grad():
        for start in range(0, len(items), micro):
            scores = model.scores(pack_for(model.transformer, items[start : start + micro], pad), dtype).double()
            differences += (scores[0::2] - scores[1::2]).tolist()
    right = [difference > 0 for difference in differences]
    calibration = calibrate(differences, seed)
    return {
        "accuracy": sum(right) / len(right),
        "interval": list(wilson_interval(sum(right), len(right))),
        "by_kind": {
            kind: {"accuracy": sum(chosen) / len(chosen), "pairs": len(chosen)}
            for kind, chosen in by_kind(right, kinds).items()
        },
        "calibration": [
            {"predicted": held.predicted, "observed": held.observed, "pairs": held.pairs} for held in calibration.bins
        ],
        "calibration_error": calibration.error,
    }


def check_pairs(items: Sequence[Prompted]) -> None:
    """Refuse items that are no pairs.

    Raises:
        ValueError: there is none, or one without exactly two answers.
    """
    if not items:
        raise ValueError("there is no pair")
    for number, item in enumerate(items):
        if len(item.answers) != 2:
            raise ValueError(f"item {number} has {len(item.answers)} answers and a pair has two")


def by_kind(values: Sequence[bool], kinds: Sequence[str]) -> dict[str, list[bool]]:
    """Values of each kind, kinds by name."""
    found: dict[str, list[bool]] = {kind: [] for kind in sorted(set(kinds))}
    for value, kind in zip(values, kinds, strict=True):
        found[kind].append(value)
    return found


def pair_figures(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """The curves of rewards in pairs, both of shape (P,): a tie counts as wrong."""
    return {
        "accuracy": float((chosen > rejected).double().mean()),
        "margin": float((chosen - rejected).double().mean()),
        "chosen_reward": float(chosen.double().mean()),
        "rejected_reward": float(rejected.double().mean()),
    }
