"""One side of ``sft.py``: Cadran, with the base in float32 or in 8 or 4 bits."""

import math
import time
from pathlib import Path
from typing import Literal

import torch

from cadran.model.checkpoint import load_model
from cadran.model.lora import LoraConfig, add_adapter
from cadran.train.frozen import freeze_base
from cadran.train.loss import head_cross_entropy
from sft_peers.rows import Packed, Row, packed_batches, shared_batches

TOKENS, MICRO = 1024, 512
"""Tokens read in a step, and at one time."""

SHARED_WIDTH = 256
"""Length of a row that begins with what all conversations have in common."""


class OwnSide:
    """Cadran on a model.

    Args:
        model: path of it.
        rows: to learn from.
        bits: 8 or 4 for a quantised base, None for float32.
        shared: whether what all rows begin with is read once a row.
        rank, rate: of the adapter, and the learning rate.
    """

    def __init__(
        self, model: Path, rows: list[Row], bits: Literal[8, 4] | None, shared: bool, rank: int, rate: float
    ) -> None:
        self.model = load_model(model, torch.float32)
        if bits is not None:
            freeze_base(self.model, bits)
        add_adapter(self.model, LoraConfig(rank=rank, alpha=2.0 * rank), seed=0)
        self.model.train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, weight_decay=0.0)
        self.batches = shared_batches(rows, TOKENS, SHARED_WIDTH, 0) if shared else packed_batches(rows, TOKENS, 0)
        self.number = 0

    def step(self) -> float:
        """One optimizer step on the next batch; its loss."""
        batch = self.batches[self.number % len(self.batches)]
        self.number += 1
        count = int((batch.targets >= 0).sum())
        loss = 0.0
        for piece in batch.pieces(max(1, MICRO // batch.ids.shape[1])):
            part = self._loss(piece, count)
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def turn(self, steps: int) -> float:
        """Real tokens a second over ``steps`` steps after one that does not count."""
        self.step()
        first = self.number
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        seconds = time.perf_counter() - start
        return sum(self.batches[i % len(self.batches)].tokens for i in range(first, self.number)) / seconds

    @torch.no_grad()
    def held_out(self, rows: list[Row]) -> float:
        """Loss of rows that were not learnt from, nats a supervised token."""
        total, count = 0.0, 0
        self.model.eval()
        for batch in packed_batches(rows, MICRO, 0):
            valid = int((batch.targets >= 0).sum())
            total, count = total + float(self._loss(batch, 1)), count + valid
        self.model.train()
        return total / count if count else math.nan

    def _loss(self, batch: Packed, count: int) -> torch.Tensor:
        hidden = self.model.hidden_states(batch.ids, batch.bias, positions=batch.positions)
        flat = hidden.reshape(-1, hidden.shape[-1])
        return head_cross_entropy(flat, self.model.lm_head.weight, batch.targets.reshape(-1), count)
