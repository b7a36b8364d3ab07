"""The sections of a recipe that make a model and teach it to answer; ``schema`` reads them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class CorpusSection(Section):
    """Where text comes from and what is kept of it."""

    sources: list[dict[str, Any]] = Field(min_length=1)
    fallback: list[dict[str, Any]] = []
    validation: Share = 0.02
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    minimum_characters: Annotated[int, Field(ge=0)] = 40


class TokenizerSection(Section):
    """The tokenizer's size, and the share of training documents whose middle comes last (``fill_in_the_middle``)."""

    vocabulary: Positive = 4096
    fill_in_the_middle: Annotated[float, Field(ge=0, le=1)] = 0.0


class ModelSection(Section):
    """Sizes of the model; null follows from the budget in minutes."""

    layers: Positive | None = None
    width: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    hidden: Positive | None = None
    context: Positive | None = None
    tied: bool = True


class UpdateSection(Section):
    """How weights are changed."""

    optimizer: Literal["muon", "adamw"] = "muon"
    matrix_rate: Rate = 0.01
    embedding_rate: Rate = 0.03
    adapter_rate: Rate = 0.0005
    scalar_rate: Rate = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: Share = 0.02
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5
    final: Share = 0.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["fp32", "bf16"] | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


class TrainingSection(UpdateSection):
    """What pre-training and SFT have in common."""

    tokens: Positive | None = None
    rows: Positive = 8
    micro_rows: Positive | None = None
    compiled: bool | None = None


class BaseStageSection(TrainingSection):
    """Pre-training."""

    evaluations: Positive = 8
    evaluated_documents: Positive = 64
    prompts: dict[str, list[str]] = {}
    sample_tokens: Positive = 60


class AdapterSection(Section):
    """A LoRA adapter, trained instead of the weights; what it lies on may be kept in integers meanwhile."""

    rank: Positive = 16
    alpha: float = 32.0
    dropout: Share = 0.0
    targets: list[str] = ["all-linear"]
    rslora: bool = False
    dora: bool = False
    base: Literal["float", "int8", "int4"] = "float"


class SftSection(TrainingSection):
    """Supervised fine-tuning: on rows made from the articles and on chats, or on a file of the user's."""

    matrix_rate: Rate = 0.005
    embedding_rate: Rate = 0.01
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    chats: Annotated[int, Field(ge=0)] = 1500
    small_talk: Annotated[int, Field(ge=0)] = 0
    article_characters: Positive = 360
    topics_evaluated: Positive = 300
    descriptions_evaluated: Positive = 60
    data: str | None = None
    epochs: Annotated[float, Field(gt=0)] = 3.0
    held_out: Share = 0.1
    held_out_rows: Positive = 200
    adapter: AdapterSection | None = None
