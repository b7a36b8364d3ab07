"""Muon: momentum whose update is turned into the nearest orthogonal matrix.

A matrix's gradient is dominated by a few directions; replacing it by U V^T of its singular value decomposition
moves all directions alike. The orthogonal factor comes from a few matrix products (an odd polynomial iteration)
instead of a decomposition. Source: Jordan et al. 2024 (Muon); coefficients: Amsel et al. 2025 (Polar Express).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Coefficients (a, b, c) of x <- a x + b x^3 + c x^5, one triple an iteration (Amsel et al. 2025)."""

SAFETY = 1.01
"""Each polynomial is applied to x / SAFETY, because a singular value that rounding has pushed above one diverges:
without it bfloat16 products gave singular values of up to 2.1 (LAB.md)."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate U V^T of each matrix's singular value decomposition.

    Args:
        matrices: shape (B, m, n), any floating type.
        dtype: of the products. bfloat16 is exact enough, but only faster where the processor multiplies it natively;
            elsewhere it is emulated and several times slower.

    Returns:
        Same shape, ``dtype``, singular values near one (within 0.7 to 1.2) for those that were not negligible.
    """
    x = matrices.float()
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) * 1.02 + 1e-7)).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        outer = torch.baddbmm(gram, gram, gram, beta=b / SAFETY**3, alpha=c / SAFETY**5)
        x = torch.baddbmm(x, outer, x, beta=a / SAFETY)
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices.

    Args:
        parameters: two-dimensional parameters.
        lr: step size; the update has root-mean-square sqrt(max(1, rows / columns) / max(rows, columns)) times this.
        momentum: of the running gradient (Nesterov).
        weight_decay: decoupled, multiplied by the current learning rate.
        dtype: of the products that orthogonalise.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[tuple(parameter.shape)].append(parameter)
            for (rows, columns), parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    state: dict[str, Any] = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))  # type: ignore[union-attr]
                scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
                for parameter, update in zip(parameters, orthogonalise(torch.stack(updates), self.dtype), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                        update.to(parameter.dtype), alpha=-scale
                    )
