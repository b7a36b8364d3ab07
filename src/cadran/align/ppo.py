"""PPO for language models: a score at the end of an answer, a toll on every token that leaves the reference, a value
head that says what was to be expected (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022).

A step is a pure function of (weights, KL coefficient, step): a round of rollouts is drawn, graded and passed through
policy, value head and reference at its first update, and a training is left and taken up between rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cadran.align.actor_critic import ActorCritic
from cadran.align.advantages import gae, whiten
from cadran.align.branches import Branches
from cadran.align.experience import Experience, MicroBatch, micro_batches, minibatch
from cadran.align.graders import Grader
from cadran.align.kl_control import KlControl, TokenReference
from cadran.align.losses.aggregate import Aggregation, aggregate
from cadran.align.losses.kl import k1
from cadran.align.losses.policy import clipped_policy_losses, importance_weights, log_ratios
from cadran.align.losses.value import clipped_value_losses
from cadran.align.prompt_loader import PromptLoader
from cadran.align.ratio import check_ratio
from cadran.align.rollout import Decode, RolloutParams, sample_rollouts
from cadran.align.rollout_engine import RolloutSource
from cadran.align.tally import Tally
from cadran.errors import UserError
from cadran.train.objective import Learnt


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """How to learn from scores.

    Attributes:
        rollout: how answers are drawn; its temperature divides the trainer's logits too.
        answers: to each prompt.
        epochs: how often each answer is learnt from.
        minibatches: updates in an epoch.
        micro: prompts in one forward and backward pass.
        clip_low, clip_high: how far a ratio counts below and above 1.
        dual_clip: most that a token with a negative advantage may cost, in units of it; None for no bound.
        value_clip: how far a value counts from what it was, in units of the reward.
        value_weight: of the value loss beside the policy's.
        gamma, lam: discount, and the trust in rewards rather than values (GAE).
        unended_penalty: taken from the score of an answer that was cut.
        scale_rewards: divide a round's scores by their standard deviation; they are not centred, because where zero
            lies decides whether ending early pays.
        aggregation: of the tokens' losses.
        correction: most that the importance weight for the engine's rounding may be; 0 for no correction.
        success: reward from which an answer counts as right.
        success_reward: name of the reward that decides it; "" for the sum of all.
        dtype: of the matrix products; None takes the weights' own.
    """

    rollout: RolloutParams
    answers: int = 1
    epochs: int = 4
    minibatches: int = 1
    micro: int = 4
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    unended_penalty: float = 1.0
    scale_rewards: bool = False
    aggregation: Aggregation = "token-mean"
    correction: float = 2.0
    success: float = 1.0
    success_reward: str = ""
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name in ("answers", "epochs", "minibatches", "micro"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.rollout.temperature == 0:
            raise UserError("at temperature 0 nothing is tried that could turn out better; set temperature=1")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1 and 0 <= self.clip_low <= 1):
            raise UserError("gamma, lam and clip_low are shares of 1; mend them")
        if min(self.clip_high, self.value_clip, self.value_weight, self.correction) < 0:
            raise UserError("clip_high, value_clip, value_weight and correction are not negative; mend them")


@dataclass(frozen=True, slots=True)
class _Round:
    """What is known of every token of a round before its first update, each of shape (N,)."""

    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PpoObjective:
    """Clipped policy and value losses on scored answers; implements ``train.objective.Objective``.

    Args:
        model: policy and value head. Dropout stays off.
        source: who draws the answers, with the policy's weights.
        prompts: what to answer; ``prompts.count`` prompts a round.
        grader: scores answers, by reward functions or a reward model.
        decode: ids to text for the grader, see ``rollout.decoder``.
        config: how.
        control: coefficient of the KL penalty.
        reference: what the KL is measured to.
        seed: of the draws and the minibatches.

    Raises:
        UserError: more minibatches than prompts.

    Attributes:
        period: updates from one round of rollouts.
        experience: the latest round, for whoever wants to show samples.
    """

    def __init__(
        self,
        model: ActorCritic,
        source: RolloutSource,
        prompts: PromptLoader,
        grader: Grader,
        decode: Decode,
        config: PpoConfig,
        *,
        control: KlControl,
        reference: TokenReference,
        seed: int,
    ) -> None:
        if config.minibatches > prompts.count:
            raise UserError(
                f"{prompts.count} prompts cannot be dealt out to {config.minibatches} updates; set minibatches=1"
            )
        self.model, self.source, self.prompts, self.grader, self.decode = model, source, prompts, grader, decode
        self.config, self.control, self.seed = config, control, seed
        self.period = config.epochs * config.minibatches
        self.experience: Experience | None = None
        self._reference = reference
        self._number = -1
        self._round: _Round | None = None
        self._figures: dict[str, float] = {}

    def state(self) -> dict[str, Tensor]:
        """The KL coefficient."""
        return self.control.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the coefficient back, and forget a round of other weights."""
        self.control.restore(state)
        self._number, self._round, self.experience = -1, None, None

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
        if self._number != number or self.experience is None or self._round is None:
            raise ValueError(f"step {step} goes on with rollouts of step {step - update}, which were not drawn here")
        experience, everything = self.experience, range(len(self.experience.prompts))
        chosen = minibatch(everything, self.config.minibatches, update, (self.seed % 2**63, number))
        answers = experience.kept(chosen)
        tokens = int(experience.lengths[answers].sum())
        tally = Tally()
        for piece in micro_batches(self.model.policy, experience, chosen, self.config.micro, self._pad):
            self._learn(piece, experience, self._round, (tokens, len(answers)), update == 0, tally)
        figures = experience.figures(self.config.success, self.config.success_reward) | self._figures | tally.figures()
        return Learnt(tally.loss, figures, experience.named(chosen), tally.read)

    @property
    def _pad(self) -> int:
        return self.config.rollout.stop_ids[0]  # padding is never looked at; any id will do

    def _draw(self, number: int) -> None:
        config = self.config
        prompts = self.prompts.batch(number)
        rollouts = sample_rollouts(
            self.source, prompts, config.answers, config.rollout, self.seed, number, decode=self.decode
        )
        self.experience = experience = Experience(prompts, rollouts, self.grader)
        self._number = number
        logprobs, values = self._passed(experience, self._own, 2)
        (reference,) = self._passed(experience, self._of_reference, 1)
        drift = k1(logprobs, reference)
        kl = float(drift.sum()) / len(rollouts)
        self._figures = {"kl": kl, "kl_coefficient": self.control.coefficient}
        lengths = experience.lengths
        rewards = -self.control.coefficient * drift
        rewards[lengths.cumsum(0) - 1] += self._scores(experience)  # at the last real token of each
        answer = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        advantages, returns = gae(rewards, values, answer, config.gamma, config.lam)
        advantages = whiten(advantages, torch.ones_like(answer, dtype=torch.bool))
        self._round = _Round(logprobs, values, advantages, returns)
        # The round was judged by the old coefficient; the next one is by the new, which is what a checkpoint keeps.
        self.control.update(kl, len(rollouts))

    def _scores(self, experience: Experience) -> Tensor:
        scores = experience.rewards - self.config.unended_penalty * (~experience.ended).double()
        if self.config.scale_rewards:
            spread = float(scores.std()) if len(scores) > 1 else 0.0
            scores = scores / spread if spread > 0 else scores
        return scores

    @torch.no_grad()
    def _passed(
        self, experience: Experience, numbers: Callable[[Branches], tuple[Tensor, ...]], count: int
    ) -> list[Tensor]:
        """Numbers of all tokens of the round, float64, each of shape (N,)."""
        results = [torch.zeros(int(experience.lengths.sum()), dtype=torch.float64) for _ in range(count)]
        everything = range(len(experience.prompts))
        for piece in micro_batches(self.model.policy, experience, everything, self.config.micro, self._pad):
            for result, found in zip(results, numbers(piece.batch), strict=True):
                result[piece.places] = found.double().cpu()
        return results

    def _own(self, batch: Branches) -> tuple[Tensor, Tensor]:
        logprobs, _, values = self.model.evaluate(
            batch, dtype=self.config.dtype, temperature=self.config.rollout.temperature
        )
        return logprobs, values

    def _of_reference(self, batch: Branches) -> tuple[Tensor]:
        return (self._reference(batch, self.config.rollout.temperature),)

    def _learn(
        self,
        piece: MicroBatch,
        experience: Experience,
        known: _Round,
        counts: tuple[int, int],
        first: bool,
        tally: Tally,
    ) -> None:
        """Forward and backward of some prompts; ``counts`` are tokens and answers of the whole update."""
        config, batch = self.config, piece.batch
        logprobs, entropies, values = self.model.evaluate(
            batch, dtype=config.dtype, temperature=config.rollout.temperature
        )
        old = known.logprobs[piece.places].to(logprobs)
        if first:
            check_ratio(logprobs, old, config.dtype)
        losses, clipped = clipped_policy_losses(
            logprobs, old, known.advantages[piece.places].to(logprobs),
            clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip,
        )  # fmt: skip
        engine = experience.engine_logprobs[piece.places].to(logprobs)
        if config.correction:
            weights = importance_weights(old, engine, config.correction)
            losses = losses * weights
            tally.add("correction", weights)
        old_values, returns = known.values[piece.places].to(values), known.returns[piece.places].to(values)
        value_losses = clipped_value_losses(values, old_values, returns, config.value_clip)
        loss = aggregate(
            losses + config.value_weight * value_losses, batch.answer, batch.valid, config.aggregation,
            tokens=counts[0], answers=counts[1], longest=config.rollout.max_tokens,
        )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        tally.loss += float(loss.detach())
        tally.read += batch.tokens
        tally.add("value_loss", value_losses)
        tally.add("entropy", entropies)
        tally.add("clipped_share", clipped)
        tally.add("ratio", log_ratios(logprobs.detach(), old).exp())
        tally.add("mismatch", (engine - old).abs())
