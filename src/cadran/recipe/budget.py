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
from cadran.recipe.alignment_sections import DistilSection, KtoSection, PairSection
from cadran.recipe.schema import Recipe
from cadran.recipe.sections import TrainingSection, UpdateSection
from cadran.train.estimate import tokens_per_second
from cadran.train.machine import Precision, best_precision
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import TrainingPlan

FIXED_SECONDS = 260.0
"""Corpus, tokenizer, evaluation, baselines and report of the quickstart on two cores (LAB.md); not training."""

SHARES = {"base": 0.78, "sft": 0.22, "distil": 0.1, "reward": 0.05, "dpo": 0.1, "kto": 0.1}
"""Of the training time, for those stages that a recipe has."""

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


def training_plan(section: UpdateSection, steps: int, observe_every: int, *, micro_rows: int = 1) -> TrainingPlan:
    """The plan of a resolved section."""
    return TrainingPlan(
        steps=steps,
        micro_rows=micro_rows,
        precision=section.precision or "fp32",
        optimizer=OptimizerConfig(
            name=section.optimizer,
            matrix_rate=section.matrix_rate,
            embedding_rate=section.embedding_rate,
            norm_rate=section.embedding_rate,
            adapter_rate=section.adapter_rate,
            scalar_rate=section.scalar_rate,
            weight_decay=section.weight_decay,
        ),
        schedule=Schedule(steps, section.warmup, section.decay, section.final, section.schedule),
        clip=section.clip,
        observe_every=observe_every,
        checkpoint_seconds=section.checkpoint_seconds,
        compiled=isinstance(section, TrainingSection) and bool(section.compiled),
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
    given = {name: section.precision for name, section in _sections(recipe).items()}
    if recipe.corpus is None:
        key = sha256_text(json.dumps([given, recipe.threads], sort_keys=True))
        settings: list[Any] = []
        calibrated = False
    else:
        config, base = model_config(recipe), recipe.base
        settings = [dataclasses.asdict(config), base.rows, base.micro_rows, base.precision]
        rest = [recipe.sft and recipe.sft.precision, base.optimizer, recipe.threads]
        key = sha256_text(json.dumps([*settings, *rest], sort_keys=True))
        calibrated = any(section.tokens is None for section in _budgeted(recipe).values())
    if known is not None and known.key == key and (known.tokens_per_second is not None or not calibrated):
        return known
    precision = next((kind for kind in given.values() if kind is not None), None) or best_precision()
    if not calibrated:
        return Measurement(key, precision, None)
    if recipe.minutes is None:
        raise UserError(
            "the recipe has neither minutes nor token counts; add minutes=12, or base.tokens and sft.tokens"
        )
    base = recipe.base.model_copy(update={"precision": precision})
    return Measurement(key, precision, _measured_speed(model_config(recipe), base))


def resolve(recipe: Recipe, measured: Measurement) -> Recipe:
    """Replace every null: sizes from the minutes, precision and token counts from what was measured.

    What only says that there is no such thing (no adapter, no file) stays null.

    Args:
        recipe: as read; one without nulls comes back unchanged.
        measured: by ``measure`` for this recipe.
    """
    minutes, settled = recipe.minutes or 0.0, {}
    budget, tokens = _budgeted(recipe), 0.0
    if measured.tokens_per_second is not None:
        tokens = MARGIN * max(30.0, 60 * minutes - FIXED_SECONDS) * measured.tokens_per_second
    whole = sum(SHARES[name] for name in budget)
    for name, section in _sections(recipe).items():
        update: dict[str, Any] = {"precision": section.precision or measured.precision}
        if isinstance(section, TrainingSection):
            compiled = name == "base" and minutes >= COMPILE_MINUTES
            update |= {
                "compiled": compiled if section.compiled is None else section.compiled,
                "micro_rows": section.micro_rows or section.rows,
            }
        if name in budget and tokens:
            update["tokens"] = budget[name].tokens or round(SHARES[name] / whole * tokens)
        settled[name] = section.model_copy(update=update)
    if recipe.corpus is None:
        return recipe.model_copy(update=settled)
    config = model_config(recipe)
    model = recipe.model.model_copy(
        update={
            "layers": config.layers, "width": config.width, "heads": config.heads, "kv_heads": config.kv_heads,
            "hidden": config.hidden, "context": config.context,
        }
    )  # fmt: skip
    return recipe.model_copy(update={"model": model, **settled})


def _sections(recipe: Recipe) -> dict[str, UpdateSection]:
    """The stages of a recipe that change weights."""
    sections = {name: getattr(recipe, name) for name in ("sft", "distil", "reward", "dpo", "kto", "grpo", "ppo")}
    found = {name: section for name, section in sections.items() if section is not None}
    return found if recipe.corpus is None else {"base": recipe.base, **found}


def _budgeted(recipe: Recipe) -> dict[str, TrainingSection | PairSection | KtoSection | DistilSection]:
    """Those of them whose tokens follow from the minutes."""
    if recipe.corpus is None:
        return {}
    sections = _sections(recipe).items()
    budgeted = TrainingSection | PairSection | KtoSection | DistilSection
    return {name: s for name, s in sections if isinstance(s, budgeted)}


def _measured_speed(config: ModelConfig, section: TrainingSection) -> float:
    """Tokens a second of real steps on random documents of about a hundred tokens."""
    generator = np.random.Generator(np.random.PCG64(0))
    documents = (
        EncodedDocument(generator.integers(0, config.vocabulary, int(n)), 1, "und")
        for n in generator.integers(40, 200, 64 * max(1, section.rows * config.context // 1000))
    )
    with TemporaryDirectory() as folder:
        shard = write_shard(Path(folder), documents, config.vocabulary)
        plan = training_plan(section, 1000, 1000, micro_rows=section.micro_rows or section.rows)
        return tokens_per_second(config, plan, shard, section.rows, config.context)
