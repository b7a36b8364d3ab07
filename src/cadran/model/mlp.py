"""The MLP of a block, gated or not."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.model.config import ModelConfig
from cadran.model.linear import apply, joined, joins, project

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up of a joined (..., 2 F) tensor; its gradient is written in place instead of concatenated."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        result = torch.empty(both.shape, dtype=both.dtype, device=both.device)
        left, right = result.chunk(2, -1)
        torch.mul(gradients[0], F.silu(gate), out=right)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=left)
        return result


class _Gated(torch.autograd.Function):
    """silu(gate) * up of two tensors; only these are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(gradients[0])
        return torch.ops.aten.silu_backward(gradients[0] * up, gate), grad_up


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020), or down(act(up(x))) without the gate.

    Args:
        config: width, activation, gate and biases.
        hidden: inner width; None takes the configuration's.
    """

    def __init__(self, config: ModelConfig, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or config.hidden
        self.activation, self.gated = config.activation, config.gated
        if config.gated:
            self.gate_proj = nn.Linear(config.width, hidden, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.width, hidden, bias=config.mlp_bias)
        self.down_proj = nn.Linear(hidden, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., C) to (..., C)."""
        act = ACTIVATIONS[self.activation]
        if not self.gated:
            return apply(act(apply(x, self.up_proj)), self.down_proj)
        if self.activation == "silu" and joins(self.gate_proj, self.up_proj):
            inner: Tensor = _SwiGLU.apply(joined(x, self.gate_proj, self.up_proj))  # type: ignore[no-untyped-call]
        else:
            gate, up = project(x, self.gate_proj, self.up_proj)
            own = self.activation == "silu" and torch.is_grad_enabled()
            inner = _Gated.apply(gate, up) if own else act(gate) * up  # type: ignore[no-untyped-call]
        return apply(inner, self.down_proj)
