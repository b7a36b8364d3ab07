"""Preference optimisation: the policy itself is the reward model (DPO, its variants, SimPO, ORPO).

Both log-probabilities are recorded apart, because their margin can widen while both fall, and the first loss against
a reference must be ln 2: anything else means that the reference is not the model the training began with.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Branches, Prompted, pack_for, per_answer
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.preference import AVERAGED, REFERENCE_FREE, PreferenceLoss, preference_losses
from cadran.align.pair_loader import PairLoader, named
from cadran.align.reference import Reference, answer_logprobs
from cadran.align.reward_objective import by_kind, check_pairs, pair_figures
from cadran.errors import UserError
from cadran.evaluate.classification import wilson_interval
from cadran.model.transformer import Transformer
from cadran.train.objective import Learnt

FROM_LN_2: frozenset[PreferenceLoss] = frozenset({"dpo", "cdpo", "robust"})
"""Losses that are ln 2 where policy and reference agree."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 0.05}
"""How far the first loss may be from ln 2, nats, by the type of the matrix products."""


class PreferenceObjective:
    """One of the losses of ``losses.preference`` over pairs.

    Args:
        model: the policy; with an adapter upon it, only that is trained.
        items: two answers each, the chosen one first.
        loader: the order of the items.
        kind: which loss.
        beta: strength of the pull to the reference, as the loss says.
        reference: log-probabilities of all answers, shape (2 I,), of ``reference.item_logprobs``; or a function of a
            batch, of ``reference.adapter_off``; None for ``simpo`` and ``orpo``.
        micro: pairs of one forward and backward pass; a batch of more is accumulated.
        dtype: of the matrix products; None takes the weights' own.
        smoothing: share of wrong labels, as the loss says.
        gamma: margin of ``simpo``.
        sft_weight: of the chosen answer's negative log-likelihood per token, added to the loss (Pang et al. 2024).
        pad: id put in empty positions.
        sources: names of the items for an error message; may be empty.

    Raises:
        ValueError: an item without two answers, a reference that does not fit, or none where the loss needs one.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        items: Sequence[Prompted],
        loader: PairLoader,
        kind: PreferenceLoss,
        beta: float,
        reference: Tensor | Reference | None,
        micro: int,
        dtype: torch.dtype | None = None,
        *,
        smoothing: float = 0.0,
        gamma: float = 0.0,
        sft_weight: float = 0.0,
        pad: int = 0,
        sources: Sequence[str] = (),
    ) -> None:
        check_pairs(items)
        if (reference is None) != (kind in REFERENCE_FREE):
            raise ValueError(f"{kind} needs {'no' if kind in REFERENCE_FREE else 'a'} reference")
        if isinstance(reference, Tensor) and reference.shape != (2 * len(items),):
            raise ValueError(f"a reference of shape {tuple(reference.shape)} does not fit {len(items)} pairs")
        self.model, self.items, self.loader, self.reference = model, items, loader, reference
        self.kind, self.beta, self.smoothing, self.gamma = kind, beta, smoothing, gamma
        self.micro, self.dtype, self.sft_weight, self.pad, self.sources = micro, dtype, sft_weight, pad, sources

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the mean loss over the loader's batch number ``step``; dropout is off.

        Raises:
            UserError: at step 0, the loss is not what it must be when the policy is the reference.
        """
        self.model.eval()
        indices = self.loader.batch(step)
        preference, total, tokens, sums, rewards = 0.0, 0.0, 0, [], []
        for start in range(0, len(indices), self.micro):
            piece = indices[start : start + self.micro]
            batch = pack_for(self.model, [self.items[i] for i in piece], self.pad)
            reference = self._reference(piece, batch)  # first, so that its activations are gone before the policy's
            logprobs, _ = model_logprobs(self.model, batch, dtype=self.dtype)
            answers, lengths = per_answer(logprobs, batch), supervised_lengths(batch)
            losses = self._losses(answers, reference, lengths).sum() / len(indices)
            loss = losses
            if self.sft_weight:
                loss = loss - self.sft_weight * (answers / lengths)[0::2].sum() / len(indices)
            loss.backward()  # type: ignore[no-untyped-call]
            preference, total = preference + float(losses.detach()), total + float(loss.detach())
            tokens += batch.tokens
            sums.append(answers.detach())
            rewards.append(self.beta * (sums[-1] / lengths if reference is None else sums[-1] - reference))
        if step == 0 and self.kind in FROM_LN_2:
            self._check_first(preference)
        answers, reward = torch.cat(sums).double(), torch.cat(rewards)
        figures = pair_figures(reward[0::2], reward[1::2]) | {
            "chosen_logprob": float(answers[0::2].mean()),
            "rejected_logprob": float(answers[1::2].mean()),
        }
        return Learnt(total, figures, named(indices, self.sources), tokens)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order is a function of the step, and the reference does not change."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def _reference(self, piece: list[int], batch: Branches) -> Tensor | None:
        if isinstance(self.reference, Tensor):
            return self.reference.view(-1, 2)[piece].reshape(-1).to(batch.ids.device)
        return None if self.reference is None else self.reference(batch)

    def _losses(self, answers: Tensor, reference: Tensor | None, lengths: Tensor) -> Tensor:
        averaged = self.kind in AVERAGED
        return preference_losses(
            self.kind,
            answers[0::2],
            answers[1::2],
            None if reference is None else reference[0::2],
            None if reference is None else reference[1::2],
            beta=self.beta,
            smoothing=self.smoothing,
            gamma=self.gamma,
            chosen_lengths=lengths[0::2] if averaged else None,
            rejected_lengths=lengths[1::2] if averaged else None,
        )

    def _check_first(self, loss: float) -> None:
        tolerance = TOLERANCE.get(self.dtype or self.model.lm_head.weight.dtype, max(TOLERANCE.values()))
        if not abs(loss - math.log(2)) <= tolerance:
            raise UserError(
                f"the first {self.kind} loss is {loss:.6f} and not ln 2 = 0.693147: the reference is not the policy; "
                f"delete the kept reference log-probabilities and run the same command again"
            )


def examine_pairs(
    model: Transformer,
    items: Sequence[Prompted],
    reference: Tensor | None,
    beta: float,
    kinds: Sequence[str],
    *,
    micro: int,
    dtype: torch.dtype | None = None,
    pad: int = 0,
) -> dict[str, Any]:
    """Which answer a model finds likelier, per token, and how far it has gone from the reference.

    Args:
        model: the policy, with whatever adapter acts now.
        items: two answers each, the chosen one first; at least one.
        reference: log-probabilities of all answers before, shape (2 I,), or None.
        beta: factor on the implicit rewards.
        kinds: of each item, for figures apart.
        micro: pairs of one forward pass.
        dtype: of the matrix products.
        pad: id put in empty positions.

    Returns:
        ``accuracy``: ``after`` (share of pairs whose chosen answer has the higher mean log-probability per token; a tie
        counts as wrong), its 95 % ``interval``, and with a reference ``before``. ``by_kind``: the same with ``pairs``.
        With a reference also ``reward`` (``accuracy``, ``interval``, ``margin`` of the implicit rewards) and ``kl``
        (``chosen``, ``rejected``: mean of log policy - log reference over whole answers, nats; an estimate of the KL
        divergence as far as the answers are such as the policy gives, negative where it has turned away from them).

    Raises:
        ValueError: there is no pair, one without two answers, or a reference that does not fit.
    """
    check_pairs(items)
    if reference is not None and reference.shape != (2 * len(items),):
        raise ValueError(f"a reference of shape {tuple(reference.shape)} does not fit {len(items)} pairs")
    parts, counts = [], []
    for start in range(0, len(items), micro):
        batch = pack_for(model, items[start : start + micro], pad)
        parts.append(answer_logprobs(model, batch, dtype).cpu().double())
        counts.append(supervised_lengths(batch).cpu())
    answers, lengths = torch.cat(parts), torch.cat(counts)
    after = _prefers(answers / lengths)
    result: dict[str, Any] = {
        "accuracy": {"after": _share(after), "interval": list(wilson_interval(sum(after), len(after)))},
        "by_kind": {kind: {"after": _share(held), "pairs": len(held)} for kind, held in by_kind(after, kinds).items()},
    }
    if reference is not None:
        before = _prefers(reference.cpu().double() / lengths)
        result["accuracy"]["before"] = _share(before)
        for kind, held in by_kind(before, kinds).items():
            result["by_kind"][kind]["before"] = _share(held)
        ratios = answers - reference.cpu().double()
        rewarded = _prefers(ratios)
        result["reward"] = {
            "accuracy": _share(rewarded),
            "interval": list(wilson_interval(sum(rewarded), len(rewarded))),
            "margin": beta * float((ratios[0::2] - ratios[1::2]).mean()),
        }
        result["kl"] = {"chosen": float(ratios[0::2].mean()), "rejected": float(ratios[1::2].mean())}
    return result


def supervised_lengths(batch: Branches) -> Tensor:
    """Tokens of each answer that count, at least 1, shape (A,)."""
    return per_answer(torch.ones_like(batch.targets), batch).clamp(min=1)


def _prefers(values: Tensor) -> list[bool]:
    """Of values of answers, shape (2 P,), whether the chosen one's is higher."""
    chosen: list[bool] = (values[0::2] > values[1::2]).tolist()
    return chosen


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
