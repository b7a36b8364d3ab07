"""GRPO: several answers to each prompt, each praised by how much better than its siblings it is (Shao et al. 2024).

With the corrections that were found since: Dr. GRPO (no division by a spread or a length), DAPO (token mean over the
step, more room above than below, cut answers and undecided groups left out), RLOO, and a weight on each token for an
engine that computes a little otherwise than the trainer. A step is a pure function of (weights, step): the rollouts of
a period are drawn at its first step, and a training is left and taken up between periods.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cadran.align.advantages import GroupAdvantage, group_advantages, zero_variance
from cadran.align.branches import Branches
from cadran.align.experience import Experience, MicroBatch, micro_batches, minibatch
from cadran.align.graders import Grader
from cadran.align.kl_control import TokenReference
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.aggregate import Aggregation, aggregate
from cadran.align.losses.kl import k3
from cadran.align.losses.policy import (
    cispo_losses,
    clipped_policy_losses,
    clipped_ratio_losses,
    importance_weights,
    log_ratios,
    sequence_log_ratios,
)
from cadran.align.prompt_loader import PromptLoader
from cadran.align.ratio import check_ratio
from cadran.align.rollout import Decode, RolloutParams, sample_rollouts
from cadran.align.rollout_engine import RolloutSource
from cadran.align.tally import Tally
from cadran.errors import UserError
from cadran.model.transformer import Transformer
from cadran.train.objective import Learnt


@dataclass(frozen=True, slots=True)
class GrpoConfig:
    """How to learn from groups.

    Attributes:
        answers: to each prompt, at least two.
        rollout: how they are drawn; its temperature divides the trainer's logits too.
        epochs: how often each answer is learnt from.
        minibatches: updates in an epoch.
        micro: prompts in one forward and backward pass.
        advantages: ``grpo``, ``dr-grpo`` or ``rloo``.
        aggregation: ``token-mean`` over the update, ``sequence-mean``, or ``dr-grpo`` (a constant length).
        ratio: ``token`` as in PPO, ``sequence`` (GSPO), or ``cispo``.
        clip_low, clip_high: how far a ratio counts below and above 1.
        dual_clip: most that a token with a negative advantage may cost, in units of it; None for no bound.
        kl: weight of the KL to the reference (k3); 0 for none.
        mask_truncated: leave answers out that were cut, instead of teaching that whatever they began was wrong.
        drop_zero_variance: leave groups out whose rewards are all equal, also from the counts that are divided by.
        correction: most that the importance weight for the engine's rounding may be; 0 for no correction.
        success: reward from which an answer counts as right.
        success_reward: name of the reward that decides it; "" for the sum of all.
        dtype: of the matrix products; None takes the weights' own.
    """

    answers: int
    rollout: RolloutParams
    epochs: int = 1
    minibatches: int = 1
    micro: int = 4
    advantages: GroupAdvantage = "grpo"
    aggregation: Aggregation = "token-mean"
    ratio: Literal["token", "sequence", "cispo"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl: float = 0.0
    mask_truncated: bool = False
    drop_zero_variance: bool = False
    correction: float = 2.0
    success: float = 1.0
    success_reward: str = ""
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.answers < 2:
            raise UserError(f"a group of {self.answers} has nothing to compare with; set answers=8")
        for name in ("epochs", "minibatches", "micro"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.rollout.temperature == 0:
            raise UserError("at temperature 0 all answers of a group are equal; set temperature=1")
        if not (0 <= self.clip_low <= 1 and self.clip_high >= 0 and self.kl >= 0 and self.correction >= 0):
            raise UserError("clip_low is a share of 1, and clip_high, kl and correction are not negative; mend them")


class GrpoObjective:
    """Policy gradients from groups of answers; implements ``train.objective.Objective``.

    Args:
        model: the policy, adapter and all. Its dropout stays off.
        source: who draws the answers.
        prompts: what to answer; ``prompts.count`` prompts a round.
        grader: what the answers are worth.
        decode: ids to text for the grader, see ``rollout.decoder``.
        config: how.
        seed: of the draws and the minibatches.
        reference: what the KL is measured to; needed when ``config.kl`` is not 0, and measured only then.

    Raises:
        UserError: more minibatches than prompts, or a KL without a reference.

    Attributes:
        period: updates from one round of rollouts.
        experience: the latest round, for whoever wants to show samples.
    """

    def __init__(
        self,
        model: Transformer,
        source: RolloutSource,
        prompts: PromptLoader,
        grader: Grader,
        decode: Decode,
        config: GrpoConfig,
        *,
        seed: int,
        reference: TokenReference | None = None,
    ) -> None:
        if config.minibatches > prompts.count:
            raise UserError(
                f"{prompts.count} prompts cannot be dealt out to {config.minibatches} updates; set minibatches=1"
            )
        if config.kl and reference is None:
            raise UserError("a KL to the reference needs one; train an adapter, or set kl=0")
        self.model, self.source, self.prompts, self.grader, self.decode = model, source, prompts, grader, decode
        self.config, self.seed = config, seed
        self._reference = reference if config.kl else None
        self.period = config.epochs * config.minibatches
        self.experience: Experience | None = None
        self._round = -1
        self._advantages = torch.zeros(0)
        self._kept = torch.zeros(0, dtype=torch.bool)
        self._live: list[int] = []
        self._old: Tensor | None = None
        self._reference_logprobs: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Nothing: between two periods the weights say it all."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Forget a round of other weights."""
        self._round, self.experience = -1, None

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of an update; at the first of a period, draw and grade answers first.

        Raises:
            UserError: a reward is no number, an answer cannot be drawn, or at the first update the policy gives other
                log-probabilities than a moment before.
            ValueError: the step is amid a period whose rollouts were drawn elsewhere.
        """
        number, update = divmod(step, self.period)
        self.model.eval()
        if update == 0:
            self._draw(number)
        elif self._round != number:
            raise ValueError(f"step {step} goes on with rollouts of step {step - update}, which were not drawn here")
        experience = self._experience()
        chosen = minibatch(self._live, self.config.minibatches, update, (self.seed % 2**63, number))
        answers = experience.kept(chosen, self._kept)
        tokens = int(experience.lengths[answers].sum())
        tally = Tally()
        for piece in micro_batches(self.model, experience, chosen, self.config.micro, self._pad, self._kept):
            self._learn(piece, tokens, len(answers), update == 0, tally)
        figures = experience.figures(self.config.success, self.config.success_reward) | tally.figures()
        return Learnt(tally.loss, figures, experience.named(chosen), tally.read)

    @property
    def _pad(self) -> int:
        return self.config.rollout.stop_ids[0]  # padding is never looked at; any id will do

    def _experience(self) -> Experience:
        assert self.experience is not None
        return self.experience

    def _draw(self, number: int) -> None:
        config = self.config
        prompts = self.prompts.batch(number)
        rollouts = sample_rollouts(
            self.source, prompts, config.answers, config.rollout, self.seed, number, decode=self.decode
        )
        self.experience = experience = Experience(prompts, rollouts, self.grader)
        self._round = number
        groups = experience.groups
        self._advantages = group_advantages(experience.rewards, groups, config.advantages).float()
        self._kept = experience.ended if config.mask_truncated else torch.ones_like(experience.ended)
        undecided = zero_variance(experience.rewards, groups).tolist()
        self._live = [p for p in range(len(prompts)) if not (config.drop_zero_variance and undecided[p])]
        # With a single update the policy that learns is the one that drew: its own numbers are the old ones.
        self._old = self._passed(self._own) if self.period > 1 else None
        self._reference_logprobs = None if self._reference is None else self._passed(self._reference)

    @torch.no_grad()
    def _passed(self, logprobs: TokenReference) -> Tensor:
        """Log-probabilities of all tokens that will be learnt from, shape (N,), 0 at the others."""
        experience = self._experience()
        result = torch.zeros(int(experience.lengths.sum()), dtype=torch.float64)
        for piece in micro_batches(self.model, experience, self._live, self.config.micro, self._pad, self._kept):
            result[piece.places] = logprobs(piece.batch, self.config.rollout.temperature).double().cpu()
        return result

    def _own(self, batch: Branches, temperature: float) -> Tensor:
        return model_logprobs(self.model, batch, dtype=self.config.dtype, temperature=temperature)[0]

    def _learn(self, piece: MicroBatch, tokens: int, answers: int, first: bool, tally: Tally) -> None:
        """Forward and backward of some prompts; ``tokens`` and ``answers`` count those of the whole update."""
        config, batch = self.config, piece.batch
        logprobs, entropies = model_logprobs(
            self.model, batch, dtype=config.dtype, temperature=config.rollout.temperature
        )
        old = logprobs.detach() if self._old is None else self._old[piece.places].to(logprobs)
        if first:
            check_ratio(logprobs, old, config.dtype)
        advantages = self._advantages[piece.answers].to(logprobs)[batch.answer]
        losses, clipped = self._policy_losses(logprobs, old, advantages, piece)
        engine = self._experience().engine_logprobs[piece.places].to(logprobs)
        if config.correction:
            weights = importance_weights(old, engine, config.correction)
            losses = losses * weights
            tally.add("correction", weights)
        if self._reference_logprobs is not None:
            penalties = k3(logprobs, self._reference_logprobs[piece.places].to(logprobs))
            losses = losses + config.kl * penalties
            tally.add_sum("kl", penalties, len(piece.answers))
        loss = aggregate(
            losses, batch.answer, batch.valid, config.aggregation,
            tokens=tokens, answers=answers, longest=config.rollout.max_tokens,
        )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        tally.loss += float(loss.detach())
        tally.read += batch.tokens
        tally.add("entropy", entropies)
        tally.add("clipped_share", clipped)
        tally.add("ratio", log_ratios(logprobs.detach(), old).exp())
        tally.add("mismatch", (engine - old).abs())

    def _policy_losses(
        self, logprobs: Tensor, old: Tensor, advantages: Tensor, piece: MicroBatch
    ) -> tuple[Tensor, Tensor]:
        low, high, dual = self.config.clip_low, self.config.clip_high, self.config.dual_clip
        if self.config.ratio == "cispo":
            return cispo_losses(logprobs, old, advantages, clip_low=low, clip_high=high)
        if self.config.ratio == "sequence":
            ratios = sequence_log_ratios(logprobs, old, piece.batch.answer, piece.batch.valid)
            return clipped_ratio_losses(ratios, advantages, clip_low=low, clip_high=high, dual_clip=dual)
        return clipped_policy_losses(logprobs, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
