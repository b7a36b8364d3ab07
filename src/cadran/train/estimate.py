"""What a training will need, said before it starts: memory, and time from the machine's own matrix-multiply speed."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cadran.corpus.shards import TokenShard
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.train.loader import TokenLoader
from cadran.train.machine import DTYPES, matmul_speed, memory_available
from cadran.train.next_token import NextToken, compiled_states
from cadran.train.trainer import Trainer, TrainingPlan

SHARE_REACHED = 0.6
"""Share of the plain matrix-multiply speed that training reaches (LAB.md), for the estimate only."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of memory and seconds of time."""

    memory: int
    seconds: float


def estimate(config: ModelConfig, plan: TrainingPlan, rows: int, context: int) -> Estimate:
    """Estimate memory and time of a training.

    Memory: float32 weights, gradients and two optimizer moments; activations kept for the backward pass of
    ``plan.micro_rows`` rows; the logits of one piece. Time: FLOPs at ``SHARE_REACHED`` of the measured speed.

    Raises:
        UserError: more memory than is available.
    """
    size = 2 if plan.precision == "bf16" else 4
    tokens = plan.micro_rows * context
    width = config.heads * config.head_width
    # Kept per token and layer: both norms' inputs (float32), their outputs, q k v, scores, attention, gate up, product.
    per_token = 4 * 2 * config.width + size * (
        2 * config.width + 3 * 3 * width + config.heads * context + 2 * config.width + 3 * config.hidden
    )
    memory = 16 * config.parameters + config.layers * tokens * per_token + 3 * 4 * 1024 * config.vocabulary
    if memory > memory_available():
        raise UserError(
            f"training needs about {memory / 1e9:.1f} GB and {memory_available() / 1e9:.1f} GB are free; "
            f"set base.micro_rows={max(1, plan.micro_rows // 2)} or a smaller model"
        )
    flops = config.training_flops_per_token(context) * plan.steps * rows * context
    return Estimate(memory, flops / (SHARE_REACHED * matmul_speed(plan.precision)))


def tokens_per_second(
    config: ModelConfig, plan: TrainingPlan, shard: TokenShard, rows: int, context: int, *, steps: int = 6
) -> float:
    """Measured training speed: real steps of the real shape on a throw-away model, the first two not counted."""
    with TemporaryDirectory() as folder:
        model = Transformer(config, seed=0)
        loader = TokenLoader(shard, context, rows, seed=0)
        states = compiled_states(model, lambda text: None) if plan.compiled else None
        objective = NextToken(model, loader, plan.micro_rows, DTYPES[plan.precision], states)
        trainer = Trainer(model, objective, plan, Path(folder), {}, lambda event: None)
        for number in range(2):
            trainer.step(number)
        start = time.perf_counter()
        for number in range(2, 2 + steps):
            trainer.step(number)
        return steps * rows * context / (time.perf_counter() - start)
