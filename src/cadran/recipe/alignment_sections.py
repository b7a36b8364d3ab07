"""The sections of a recipe that make an answering model answer better, and smaller."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cadran.recipe.sections import AdapterSection, Positive, Rate, Section, Share, UpdateSection


class PairSection(UpdateSection):
    """Learning from pairs of answers: planted ones with a ground truth, a file of the user's, and what people chose."""

    matrix_rate: Rate = 0.0003
    embedding_rate: Rate = 0.0003
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    warmup: Share = 0.1
    data: str | None = None
    planted: Annotated[int, Field(ge=0)] = 6000
    small_talk: Annotated[int, Field(ge=0)] = 600
    ratings: bool = True
    pairs: Positive = 16
    micro: Positive = 16
    tokens: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] = 1.0
    held_out: Share = 0.1
    held_out_pairs: Positive = 400
    examinations: Positive = 5
    adapter: AdapterSection | None = None


class RewardSection(PairSection):
    """A reward model: the chat model with one number for an output, by Bradley and Terry."""

    matrix_rate: Rate = 0.006
    embedding_rate: Rate = 0.003
    scalar_rate: Rate = 0.003
    centring: Annotated[float, Field(ge=0)] = 0.01


class DpoSection(PairSection):
    """Preference optimisation without a reward model: DPO and its relatives."""

    loss: Literal["dpo", "cdpo", "robust", "ipo", "hinge", "simpo", "orpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    sft_weight: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _settings_belong_to_the_loss(self) -> "DpoSection":
        """A setting that the loss does not know, or lacks, would be passed over in silence."""
        if self.smoothing and self.loss not in ("cdpo", "robust"):
            raise ValueError(f"smoothing is for the losses cdpo and robust and not for {self.loss}")
        if self.loss in ("cdpo", "robust") and not self.smoothing:
            raise ValueError(f"{self.loss} without smoothing is dpo; give the share of wrong labels, e.g. 0.1")
        if self.gamma and self.loss != "simpo":
            raise ValueError(f"gamma is for the loss simpo and not for {self.loss}")
        return self


class KtoSection(UpdateSection):
    """Preference optimisation from answers that are good or bad on their own: thumbs, and pairs taken apart."""

    matrix_rate: Rate = 0.001
    embedding_rate: Rate = 0.001
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    warmup: Share = 0.1
    data: str | None = None
    planted: Annotated[int, Field(ge=0)] = 3000
    small_talk: Annotated[int, Field(ge=0)] = 300
    ratings: bool = True
    rows: Annotated[int, Field(ge=2)] = 32
    micro: Positive = 16
    tokens: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(gt=0)] = 0.1
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    held_out: Share = 0.1
    held_out_rows: Annotated[int, Field(ge=2)] = 400
    examinations: Positive = 5
    adapter: AdapterSection | None = None


class DistilSection(UpdateSection):
    """Learning from a teacher: its whole distribution of the next token, on given rows and on the student's own."""

    teacher: str
    temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    on_policy: Annotated[float, Field(ge=0, le=1)] = 0.0
    prompts: Positive = 16
    max_tokens: Positive = 64
    matrix_rate: Rate = 0.005
    embedding_rate: Rate = 0.01
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    data: str | None = None
    tokens: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] = 3.0
    rows: Positive = 8
    micro: Positive = 4
    held_out: Share = 0.1
    held_out_rows: Positive = 200
    examinations: Positive = 5
    adapter: AdapterSection | None = None


class ArithmeticSection(Section):
    """Sums to be asked, where a recipe has no other data: answers that can be checked."""

    count: Positive = 2000
    operands: Positive = 2
    largest: Positive = 20
    operations: str = "+-"


class RolloutSection(UpdateSection):
    """Reinforcement learning: answers are drawn from the policy and rewarded."""

    matrix_rate: Rate = 0.0005
    embedding_rate: Rate = 0.0005
    warmup: Share = 0.0
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    data: str | None = None
    rewards: list[str | dict[str, Any]] = Field(default_factory=list)
    iterations: Positive = 60
    prompts: Positive = 8
    answers: Positive = 8
    max_tokens: Positive = 32
    temperature: Annotated[float, Field(gt=0)] = 1.0
    epochs: Positive = 1
    minibatches: Positive = 1
    micro: Positive = 4
    rollouts: Literal["torch", "int8", "f32"] = "torch"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    kl: Annotated[float, Field(ge=0)] = 0.0
    held_out: Share = 0.1
    held_out_rows: Positive = 200
    examinations: Positive = 5
    adapter: AdapterSection | None = None


class GrpoSection(RolloutSection):
    """Group-relative policy optimisation and its relatives: no value model, answers of one prompt are compared."""

    advantages: Literal["grpo", "dr-grpo", "rloo"] = "grpo"
    aggregation: Literal["token-mean", "sequence-mean", "dr-grpo"] = "token-mean"
    mask_truncated: bool = False
    drop_zero_variance: bool = False


class PpoSection(RolloutSection):
    """Proximal policy optimisation with a value head and a reward for every token, less its divergence."""

    kl: Annotated[float, Field(ge=0)] = 0.05
    kl_target: Annotated[float, Field(gt=0)] | None = None
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    value_weight: Annotated[float, Field(ge=0)] = 0.1
    unended_penalty: Annotated[float, Field(ge=0)] = 1.0


class IntegerSection(Section):
    """The finished model with weights of 8 bits; there is nothing to choose."""
