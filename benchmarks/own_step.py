"""Cadran's own training step, under the AdamW that all sides share, on packed rows with their document mask."""

import torch
from torch import Tensor

from adamw_step import AdamWStep
from cadran.model.attention import document_bias
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.train.loss import head_cross_entropy
from cadran.train.machine import DTYPES, Precision

DOCUMENTS = 3
"""Documents in a row of random ids, about what packed summaries give at a context of 256."""


def make_step(
    shape: ModelConfig, rows: int, threads: int, compiled: bool = False, precision: Precision = "fp32"
) -> AdamWStep:
    """A step of Cadran's Transformer as its trainer does it, the mask made anew each step.

    Args:
        shape: sizes.
        rows: rows of ``shape.context`` targets in a batch.
        threads: torch's thread count, set for the whole process.
        compiled: compile the blocks, as the trainer does.
        precision: of the matrix products; weights and optimizer stay in float32.

    Returns:
        The step; a batch is ids, shape (rows, context + 1), and segments, shape (rows, context).
    """
    torch.set_num_threads(threads)
    model = Transformer(shape, seed=0)
    hidden_states = torch.compile(model.hidden_states, dynamic=False) if compiled else model.hidden_states
    dtype = DTYPES[precision]
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor]:
        ids = torch.randint(shape.vocabulary, (rows, shape.context + 1), generator=generator)
        borders = torch.randint(1, shape.context, (rows, DOCUMENTS - 1, 1), generator=generator)
        segments = (torch.arange(shape.context) >= borders).sum(1, dtype=torch.int32)
        return ids, segments

    def loss(ids: Tensor, segments: Tensor) -> Tensor:
        targets = ids[:, 1:].reshape(-1)
        hidden = hidden_states(ids[:, :-1], document_bias(segments, dtype), None, dtype)
        head = model.lm_head.weight.to(dtype)
        return head_cross_entropy(hidden.reshape(-1, shape.width), head, targets, len(targets))

    return AdamWStep(model, loss, draw)
