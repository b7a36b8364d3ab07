"""From a budget in minutes to sizes and token counts, decided once and written into the resolved recipe."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.errors import UserError
from cadran.files import sha256_text
from cadran.model.config import ModelConfig
from cadran.recipe.schema import Recipe, TrainingSection
from cadran.train.estimate import tokens_per_second
from cadran.train.machine import Precision, best_precision
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import TrainingPlan

FIXED_SECONDS = 260.0
"""Corpus, tokenizer, evaluation, baselines and report of the quickstart on two cores (LAB.md); not training."""

BASE_SHARE = 0.78
"""Share of the training time that pre-training gets; SFT has the rest."""

COMPILE_MINUTES = 30.0
"""Budget from which compiling (40 to 70 s on two cores) is expected to earn back its time."""

MARGIN = 0.93
"""The calibration is short and the machine may slow down; the budget is a promise."""


def depth_for(minutes: float) -> int:
    """Layers for a budget: 3 at 12 minutes, 5 at 60, 7 at 240 (LAB.md: at equal time 3 beat 4 by 0.14 bits a byte)."""
    return max(2, min(16, round(3 * math.pow(minutes / 12, 0.3))))


def model_config(recipe: Recipe) -> ModelConfig:
    """Sizes of a recipe's model.

    Raises:
        UserError: sizes are missing and there is no budget to derive them from.
    """
    asked = recipe.model
    if recipe.minutes is None and (asked.layers is None or asked.context is None):
        raise UserError(
            "the recipe has neither minutes nor model sizes; add minutes=12, or model.layers and model.context"
        )
    # The one dial: depth. Width is 64 per layer; the hidden size 8/3 of it, as many weights as a plain MLP of factor 4.
    depth = asked.layers or depth_for(recipe.minutes or 12)
    width = asked.width or 64 * depth
    heads = asked.heads or max(1, width // 64)
    if width % heads:
        raise UserError(
            f"model.width={width} is no multiple of model.heads={heads}; set model.heads={max(1, width // 64)}"
        )
    return ModelConfig(
        vocabulary=recipe.tokenizer.vocabulary,
        layers=depth,
        width=width,
        heads=heads,
        kv_heads=asked.kv_heads or heads,
        head_width=width // heads,
        hidden=asked.hidden or (64 * max(1, round(width * 8 / 3 / 64))),
        context=asked.context or (256 if (recipe.minutes or 12) < 45 else 512),
        tied=asked.tied,
    )


def training_plan(section: TrainingSection, context: int, steps: int, observe_every: int) -> TrainingPlan:
    """The plan of a resolved section."""
    return TrainingPlan(
        steps=steps,
        micro_rows=section.micro_rows or section.rows,
        precision=section.precision or "fp32",
        optimizer=OptimizerConfig(
            name=section.optimizer,
            matrix_rate=section.matrix_rate,
            embedding_rate=section.embedding_rate,
            norm_rate=section.embedding_rate,
            weight_decay=section.weight_decay,
        ),
        schedule=Schedule(steps, section.warmup, section.decay, section.final, section.schedule),
        clip=section.clip,
        observe_every=observe_every,
        checkpoint_seconds=section.checkpoint_seconds,
        compiled=bool(section.compiled),
    )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured on this machine to resolve a recipe.

    Attributes:
        key: hash of the part of the recipe that it depends on; another recipe with the same key may use it.
        precision: of the matrix products.
        tokens_per_second: of training, as the calibration found it; None when no token count depends on it.
    """

    key: str
    precision: Precision
    tokens_per_second: float | None


def measure(recipe: Recipe, known: Measurement | None = None) -> Measurement:
    """Measure what a recipe leaves open: precision by a probe, speed by a short calibration.

    Args:
        recipe: as read.
        known: an earlier measurement, returned when it fits: a change of the SFT must not re-size the base model.

    Raises:
        UserError: no budget where one is needed.
    """
    config, base = model_config(recipe), recipe.base
    settings = [dataclasses.asdict(config), base.rows, base.micro_rows, base.precision]
    key = sha256_text(json.dumps([*settings, recipe.sft.precision, base.optimizer, recipe.threads], sort_keys=True))
    calibrated = base.tokens is None or recipe.sft.tokens is None
    if known is not None and known.key == key and (known.tokens_per_second is not None or not calibrated):
        return known
    precision = base.precision or recipe.sft.precision or best_precision()
    if not calibrated:
        return Measurement(key, precision, None)
    if recipe.minutes is None:
        raise UserError(
            "the recipe has neither minutes nor token counts; add minutes=12, or base.tokens and sft.tokens"
        )
    return Measurement(key, precision, _measured_speed(config, base.model_copy(update={"precision": precision})))


def resolve(recipe: Recipe, measured: Measurement) -> Recipe:
    """Replace every null: sizes from the minutes, precision and token counts from what was measured.

    Args:
        recipe: as read; one without nulls comes back unchanged.
        measured: by ``measure`` for this recipe.
    """
    config, minutes = model_config(recipe), recipe.minutes or 0.0

    def settled(section: TrainingSection, *, compiled: bool) -> dict[str, Any]:
        return {
            "precision": section.precision or measured.precision,
            "compiled": compiled if section.compiled is None else section.compiled,
            "micro_rows": section.micro_rows or section.rows,
        }

    base = recipe.base.model_copy(update=settled(recipe.base, compiled=minutes >= COMPILE_MINUTES))
    sft = recipe.sft.model_copy(update=settled(recipe.sft, compiled=False))
    if measured.tokens_per_second is not None:
        tokens = MARGIN * max(30.0, 60 * minutes - FIXED_SECONDS) * measured.tokens_per_second
        base = base.model_copy(update={"tokens": base.tokens or round(BASE_SHARE * tokens)})
        sft = sft.model_copy(update={"tokens": sft.tokens or round((1 - BASE_SHARE) * tokens)})
    model = recipe.model.model_copy(
        update={
            "layers": config.layers, "width": config.width, "heads": config.heads, "kv_heads": config.kv_heads,
            "hidden": config.hidden, "context": config.context,
        }
    )  # fmt: skip
    return recipe.model_copy(update={"model": model, "base": base, "sft": sft})


def _measured_speed(config: ModelConfig, section: TrainingSection) -> float:
    """Tokens a second of real steps on random documents of about a hundred tokens."""
    generator = np.random.Generator(np.random.PCG64(0))
    documents = (
        EncodedDocument(generator.integers(0, config.vocabulary, int(n)), 1, "und")
        for n in generator.integers(40, 200, 64 * max(1, section.rows * config.context // 1000))
    )
    with TemporaryDirectory() as folder:
        shard = write_shard(Path(folder), documents, config.vocabulary)
        plan = training_plan(section, config.context, 1000, 1000)
        return tokens_per_second(config, plan, shard, section.rows, config.context)
