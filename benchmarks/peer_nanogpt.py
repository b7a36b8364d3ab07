"""A GPT of nanoGPT's shape and its training, written from the description of both (GPT-2; Radford et al. 2019).

Learned positions, LayerNorm without bias, one matrix for queries, keys and values, a GELU MLP four times as wide, tied
head, no dropout. AdamW (0.9, 0.95) with weight decay 0.1 on matrices, linear warm-up and a cosine to a tenth, gradients
clipped at 1, windows drawn anywhere in the stream of tokens, logits held whole.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamw_step import CLIP, AdamWStep, random_ids
from cadran.corpus.shards import TokenShard
from cadran.errors import UserError
from cadran.model.config import ModelConfig

STANDARD_DEVIATION = 0.02
"""Of every initial matrix; what writes to the residual stream is divided by sqrt(2 layers)."""


@dataclass(frozen=True, slots=True)
class NanoShape:
    """Sizes; ``context`` is the number of learned positions."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int

    @property
    def parameters(self) -> int:
        """Trainable parameters, the tied embedding counted once."""
        block = 12 * self.width**2 + 2 * self.width
        return (self.vocabulary + self.context) * self.width + self.layers * block + self.width

    @classmethod
    def matching(cls, shape: ModelConfig, tolerance: float = 0.03) -> "NanoShape":
        """The shape with the parameter count nearest to that of one of ours, at the same number of layers and heads.

        Raises:
            UserError: none lies within ``tolerance``, a share of the count.
        """
        # First widths of which each head has a multiple of eight, because they keep the kernels on whole vectors.
        for unit in (8 * shape.heads, shape.heads):
            shapes = [
                cls(shape.vocabulary, shape.layers, width, shape.heads, shape.context)
                for width in range(unit, 2 * shape.width + unit, unit)
            ]
            best = min(shapes, key=lambda nano: abs(nano.parameters - shape.parameters))
            if abs(best.parameters / shape.parameters - 1) <= tolerance:
                return best
        raise UserError(
            f"no GPT of {shape.layers} layers comes within {tolerance:.0%} of {shape.parameters:,} parameters; "
            f"give another --width"
        )


class LayerNorm(nn.Module):
    """(x - mean) / deviation * weight over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight)


class Block(nn.Module):
    """Causal attention and a GELU MLP, each behind a norm and added to the residual stream."""

    def __init__(self, shape: NanoShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attention_out = nn.Linear(shape.width, shape.width, bias=False)
        self.mlp_norm = LayerNorm(shape.width)
        self.mlp_in = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.mlp_out = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        joined: Tensor = self.qkv(self.attention_norm(x))
        q, k, v = joined.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.attention_out(attended)
        y: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + y


class NanoGPT(nn.Module):
    """The model; calling it on ids (B, T) gives logits (B, T, V)."""

    def __init__(self, shape: NanoShape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = LayerNorm(shape.width)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 1 / math.sqrt(2 * self.shape.layers) if name.endswith("_out.weight") else 1.0
                parameter.normal_(0.0, STANDARD_DEVIATION * scale, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def make_step(shape: ModelConfig, rows: int, threads: int, compiled: bool = False) -> AdamWStep:
    """A step of the GPT, under the optimizer that all sides share.

    Args:
        shape: vocabulary, layers, width, heads and context are taken; the MLP is 4 times the width.
        rows: rows of ``shape.context`` targets in a batch.
        threads: torch's thread count, set for the whole process.
        compiled: wrap the model in ``torch.compile``.

    Returns:
        The step; a batch is one tensor of ids, shape (rows, context + 1).
    """
    torch.set_num_threads(threads)
    model = NanoGPT(NanoShape(shape.vocabulary, shape.layers, shape.width, shape.heads, shape.context), seed=0)
    run = torch.compile(model, dynamic=False) if compiled else model
    return AdamWStep(
        model, lambda ids: _loss(run(ids[:, :-1]), ids[:, 1:]), random_ids(shape.vocabulary, rows, shape.context + 1)
    )


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


@dataclass(frozen=True, slots=True)
class NanoPlan:
    """How to train: optimizer steps, rows of one, peak learning rate, seed of the windows, and nanoGPT's own rest."""

    steps: int
    rows: int
    rate: float
    seed: int
    warmup: float = 0.05  # share of the steps; nanoGPT's shorter configurations use 2 to 10 %
    final: float = 0.1  # of the peak
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1

    def rate_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step`` (0, 1, ...)."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.rate * (step + 1) / rising
        progress = (step - rising) / max(1, self.steps - rising)
        return self.rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)


class NanoTrainer:
    """Trains the GPT in place.

    Args:
        model: the GPT.
        stream: all training tokens in a row, shape (n,).
        plan: what to do.
    """

    def __init__(self, model: NanoGPT, stream: npt.NDArray[np.integer], plan: NanoPlan) -> None:
        if len(stream) <= model.shape.context:
            raise UserError(f"the corpus has {len(stream)} tokens and one window needs {model.shape.context + 1}")
        self.model, self.stream, self.plan = model, stream, plan
        matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=plan.betas, fused=True)

    def windows(self, number: int) -> Tensor:
        """Ids of optimizer step ``number``, int64, shape (rows, context + 1)."""
        context = self.model.shape.context
        generator = np.random.Generator(np.random.PCG64([self.plan.seed, number]))
        begins = generator.integers(0, len(self.stream) - context, self.plan.rows)
        return torch.from_numpy(self.stream[begins[:, None] + np.arange(context + 1)].astype(np.int64))

    def step(self, number: int) -> float:
        """Do optimizer step ``number`` and return its loss, nats per target."""
        ids = self.windows(number)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(number)
        loss = _loss(self.model(ids[:, :-1]), ids[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def run(self, observe: Callable[[int], None], observe_every: int) -> None:
        """Do all steps; ``observe`` is called with the steps done, before the first, every so many and at the end."""
        observe(0)
        for number in range(self.plan.steps):
            self.step(number)
            if (number + 1) % observe_every == 0 or number + 1 == self.plan.steps:
                observe(number + 1)


def token_stream(shard: TokenShard) -> npt.NDArray[np.integer]:
    """All documents of a shard in a row, with one end-of-text between two of them, shape (n,).

    Documents of a shard both begin and end with it; the second of two in a row would teach nothing.
    """
    tokens = np.asarray(shard.tokens)
    begins = np.asarray(shard.offsets[1:-1])
    return np.delete(tokens, begins[tokens[begins] == tokens[begins - 1]])
