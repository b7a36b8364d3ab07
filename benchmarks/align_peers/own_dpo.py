"""One side of ``dpo.py``: Cadran, the base in float32 or in 8 bits, prompts read once for both answers."""

import time
from typing import Literal

from torch import Tensor

from align_peers.bench_files import BETAS, CLIP, RATE, BenchFiles
from cadran.align.pair_loader import PairLoader
from cadran.align.preference_objective import PreferenceObjective
from cadran.align.reference import Reference, adapter_off, item_logprobs
from cadran.model.lora import without_adapter
from cadran.train.frozen import freeze_base
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import Trainer, TrainingPlan

WARM = 1
"""Step done before a turn without being counted; step 0 would be checked to be the first."""


def constant_plan() -> TrainingPlan:
    """AdamW at a constant rate, as on the other sides."""
    optimizer = OptimizerConfig(name="adamw", adapter_rate=RATE, betas=BETAS)
    schedule = Schedule(1 << 30, warmup=0.0, decay=0.0)
    return TrainingPlan(1, 1, "fp32", optimizer, schedule, clip=CLIP)


class OwnDpo:
    """DPO on an adapter, with the reference's log-probabilities computed beforehand where the base is in float32.

    In integers a sum in another order now and then rounds to another byte, so the same answer in another batch has a
    slightly different log-probability; there the adapter is switched off in each step, as the recipes do.

    Args:
        files: what to read.
        pairs: of a step, in one forward and backward pass.
        bits: 8 for a base in 8 bits, None for float32.
        beta: of the loss.

    Attributes:
        reference_seconds: what the reference's log-probabilities cost beforehand, for a pair.
    """

    def __init__(self, files: BenchFiles, pairs: int, bits: Literal[8] | None, beta: float) -> None:
        items, self.pairs = files.items(), pairs
        self.model = files.open_model()
        if bits is not None:
            freeze_base(self.model, bits)
        reference: Tensor | Reference = adapter_off(self.model)
        self.reference_seconds = 0.0
        if bits is None:
            with without_adapter(self.model):
                item_logprobs(self.model, items[:pairs], micro=pairs)  # the first pass maps memory
                start = time.perf_counter()
                reference = item_logprobs(self.model, items, micro=pairs)
            self.reference_seconds = (time.perf_counter() - start) / len(items)
        self.objective = PreferenceObjective(
            self.model, items, PairLoader(items, pairs, seed=0), "dpo", beta, reference, micro=pairs
        )
        self.trainer = Trainer(
            self.model, self.objective, constant_plan(), files.scratch / "checkpoints", {}, lambda event: None
        )

    def first_losses(self, steps: int) -> list[float]:
        """Losses of the first steps; ln 2, then what the updates make of it."""
        return [self.trainer.step(number).loss for number in range(steps)]

    def turn(self, first: int, pairs: int) -> float:
        """Pairs a second over ``pairs`` pairs from number ``first`` on, after a step that does not count."""
        self.trainer.step(WARM)
        start = time.perf_counter()
        for number in range(first // self.pairs, (first + pairs) // self.pairs):
            self.trainer.step(number)
        return pairs / (time.perf_counter() - start)
