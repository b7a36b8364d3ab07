"""KTO: answers that somebody liked or did not, each alone, without a partner to compare with.

A liked answer should gain on the reference, another lose, both measured from how far the policy has gone in general.
That baseline is estimated on answers put behind the prompt of another item of the same batch. Source: Ethayarajh et al.
2024, section 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cadran.align.branches import Prompted, pack_for, per_answer
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.kto import kto_baseline, kto_losses
from cadran.align.pair_loader import PairLoader, named
from cadran.align.reference import Reference, answer_logprobs
from cadran.errors import UserError
from cadran.model.transformer import Transformer
from cadran.train.objective import Learnt


class KtoObjective:
    """KTO over single answers.

    Args:
        model: the policy; with an adapter upon it, only that is trained.
        items: one answer each.
        desirable: whether each answer is a good one, shape (I,).
        loader: the order of the items, at least two a batch.
        beta: strength of the pull to the reference.
        reference: a function of a batch, of ``reference.adapter_off`` or ``reference.frozen``. A table of the items
            would not do: the mismatched answers are other ones at every step.
        micro: answers of one forward and backward pass; a batch of more is accumulated.
        dtype: of the matrix products; None takes the weights' own.
        desirable_weight, undesirable_weight: factors on the losses of either kind, to balance unequal numbers.
        pad: id put in empty positions.
        sources: names of the items for an error message; may be empty.

    Raises:
        UserError: a batch of one, or the same prompt everywhere: nothing could be mismatched.
        ValueError: an item without exactly one answer, or labels that do not fit.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        items: Sequence[Prompted],
        desirable: Sequence[bool],
        loader: PairLoader,
        beta: float,
        reference: Reference,
        micro: int,
        dtype: torch.dtype | None = None,
        *,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        pad: int = 0,
        sources: Sequence[str] = (),
    ) -> None:
        if len(desirable) != len(items):
            raise ValueError(f"{len(desirable)} labels do not fit {len(items)} answers")
        if any(len(item.answers) != 1 for item in items):
            raise ValueError("KTO takes items of one answer each")
        if loader.rows < 2:
            raise UserError("KTO compares an answer with those of the same batch and the batch is 1; set rows=8")
        if len({item.prompt for item in items}) < 2:
            raise UserError("KTO needs answers to at least two different prompts; add rows, or use dpo on pairs")
        self.model, self.items, self.desirable, self.loader = model, items, desirable, loader
        self.beta, self.reference, self.micro, self.dtype = beta, reference, micro, dtype
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight
        self.pad, self.sources = pad, sources

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the mean loss over the loader's batch number ``step``; dropout is off."""
        self.model.eval()
        indices = self.loader.batch(step)
        baseline, tokens = self._baseline([self.items[i] for i in indices])
        total, sums, ratios = 0.0, [], []
        for start in range(0, len(indices), self.micro):
            piece = indices[start : start + self.micro]
            batch = pack_for(self.model, [self.items[i] for i in piece], self.pad)
            reference = self.reference(batch)
            logprobs, _ = model_logprobs(self.model, batch, dtype=self.dtype)
            answers = per_answer(logprobs, batch)
            good = torch.tensor([self.desirable[i] for i in piece], device=answers.device)
            losses = kto_losses(
                answers - reference,
                good,
                baseline.to(answers.dtype),
                beta=self.beta,
                desirable_weight=self.desirable_weight,
                undesirable_weight=self.undesirable_weight,
            )
            loss = losses.sum() / len(indices)
            loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss.detach()), tokens + batch.tokens
            sums.append(answers.detach())
            ratios.append(sums[-1] - reference)
        good = torch.tensor([self.desirable[i] for i in indices])
        figures = self._figures(torch.cat(sums).cpu(), torch.cat(ratios).cpu(), good, float(baseline))
        return Learnt(total, figures, named(indices, self.sources, "answers"), tokens)

    def state(self) -> dict[str, Tensor]:
        """Nothing: order and mismatch are functions of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def _baseline(self, items: Sequence[Prompted]) -> tuple[Tensor, int]:
        """From where gains are measured, nats, over the whole batch, without gradient; and the tokens read for it."""
        strangers = mismatched(items, self.model.config.context)
        parts, tokens = [], 0
        for start in range(0, len(strangers), self.micro):
            batch = pack_for(self.model, strangers[start : start + self.micro], self.pad)
            parts.append(answer_logprobs(self.model, batch, self.dtype) - self.reference(batch))
            tokens += batch.tokens
        # A batch that happens to hold one prompt only tells nothing of the others: no drift is assumed.
        return kto_baseline(torch.cat(parts).double()) if parts else torch.zeros((), dtype=torch.float64), tokens

    def _figures(self, answers: Tensor, ratios: Tensor, good: Tensor, baseline: float) -> dict[str, float]:
        """The curves of pairs, of the two kinds of answers; a kind that the batch does not hold has none."""
        rewards = self.beta * ratios.double()
        right = (ratios > baseline) == good
        figures = {"accuracy": float(right.double().mean()), "kl": baseline}
        for name, held in (("chosen", good), ("rejected", ~good)):
            if bool(held.any()):
                figures[f"{name}_reward"] = float(rewards[held].mean())
                figures[f"{name}_logprob"] = float(answers[held].double().mean())
        if "chosen_reward" in figures and "rejected_reward" in figures:
            figures["margin"] = figures["chosen_reward"] - figures["rejected_reward"]
        return figures


def mismatched(items: Sequence[Prompted], context: int) -> list[Prompted]:
    """Each answer behind the prompt of the next item of the batch, the last behind the first's.

    A next item with the same prompt is no stranger: the one after it is taken, and an answer without any stranger is
    left out. A prompt that leaves no room for the answer loses its beginning.

    Args:
        items: one answer each, shape (B,).
        context: most tokens of prompt and answer.
    """
    result = []
    for number, item in enumerate(items):
        following = (*items[number + 1 :], *items[:number])
        stranger = next((other.prompt for other in following if other.prompt != item.prompt), None)
        if stranger is not None:
            result.append(Prompted(stranger[-(context - len(item.answers[0])) :], item.answers, item.supervised))
    return result
