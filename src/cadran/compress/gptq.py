"""GPTQ: rounding column by column, each error made good by the columns that are not rounded yet.

The error that counts is that of the layer's output on real inputs, not that of the weights. Two steps follow the
published algorithm here: the scales of a group are searched for on the weights as the errors before them have left
them, and at the end all scales of a row are fitted together for the levels that came out.
Source: Frantar et al. 2022, algorithm 1.
"""

import torch
from torch import Tensor

from cadran.compress.blocks import GROUP, Kind, Quantised
from cadran.compress.rounding import best_grid, nearest, refuse_unfit

DAMPING = 0.01
"""Share of the mean diagonal that is added to it: what was hardly seen must not steer what was."""
_UNKNOWNS = 1 << 24  # numbers of the equations of scales solved together: 64 MiB


def gptq(weight: Tensor, hessian: Tensor, kind: Kind, *, damping: float = DAMPING, refit: bool = True) -> Quantised:
    """Round a matrix so that its outputs change least.

    Args:
        weight: float32, shape (rows, columns), columns a multiple of 32.
        hessian: mean of x x^T over the inputs x, float64, shape (columns, columns).
        kind: of the blocks.
        damping: see `DAMPING`.
        refit: whether to fit the scales at the end.

    Raises:
        UserError: a weight is not finite or too large for float16.
    """
    mean = float(hessian.diagonal().mean())
    if not 0 < mean < torch.inf:
        return nearest(weight, kind)
    refuse_unfit(weight)
    rows, columns = weight.shape
    damped = hessian + torch.eye(columns, dtype=hessian.dtype) * (damping * mean)
    # Upper triangle U with U^T U = inverse: row j says how the error of column j spreads over the later ones.
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).float()
    work = weight.clone()
    levels, scales, minima = torch.empty(rows, columns), [], []
    importance = spread.diagonal().square().reciprocal()  # of column j's error, once the later ones made up for it
    for first in range(0, columns, GROUP):
        last = first + GROUP
        group = work[:, first:last].clone()
        grid = best_grid(group, kind, importance[first:last])
        errors = torch.empty_like(group)
        for column in range(GROUP):
            row = spread[first + column]
            chosen = grid.levels(group[:, column : column + 1])
            levels[:, first + column] = chosen[:, 0]
            error = (group[:, column] - grid.values(chosen)[:, 0]) / row[first + column]
            group[:, column + 1 :] -= torch.outer(error, row[first + column + 1 : last])
            errors[:, column] = error
        work[:, last:] -= errors @ spread[first:last, last:]
        scales.append(grid.scale)
        minima.append(grid.minimum)
    result = Quantised(kind, levels.to(torch.int8), torch.cat(scales, 1), torch.cat(minima, 1))
    return refitted(weight, result, damped) if refit else result


def refitted(weight: Tensor, quantised: Quantised, hessian: Tensor) -> Quantised:
    """The same levels with the scales (and minima) of each row that leave the least error of its output.

    Rows to which this brings nothing keep their scales.

    Args:
        weight: float32, shape (rows, columns).
        quantised: the matrix, rounded.
        hessian: as in `gptq`, positive definite.
    """
    size = weight.shape[1] // GROUP * (2 if quantised.kind == "Q4_1" else 1)
    step = max(1, _UNKNOWNS // size**2)
    pieces = [slice(first, first + step) for first in range(0, len(weight), step)]
    fitted = [_refitted_rows(weight[rows], quantised.rows(rows), hessian) for rows in pieces]
    return Quantised(
        quantised.kind,
        quantised.levels,
        torch.cat([piece.scale for piece in fitted]),
        torch.cat([piece.minimum for piece in fitted]),
    )


def _refitted_rows(weight: Tensor, quantised: Quantised, hessian: Tensor) -> Quantised:
    rows, columns = weight.shape
    groups = columns // GROUP
    levels = quantised.levels.float().view(rows, groups, GROUP)
    parts = [levels, torch.ones_like(levels)] if quantised.kind == "Q4_1" else [levels]
    inner = hessian.float().view(groups, GROUP, columns)
    # W = sum over groups g and parts p of unknown[p, g] * part[p, g]: a linear least-squares problem for each row.
    system = torch.empty(rows, len(parts), groups, len(parts), groups)
    target = torch.empty(rows, len(parts), groups)
    wanted = (weight @ hessian.float()).view(rows, groups, GROUP)
    for i, left in enumerate(parts):
        target[:, i] = (left * wanted).sum(2)
        for group in range(groups):
            reached = (left[:, group] @ inner[group]).view(rows, groups, GROUP)
            for j, right in enumerate(parts):
                system[:, i, group, j] = (reached * right).sum(2)
    size = len(parts) * groups
    system = system.view(rows, size, size)
    known = torch.stack([quantised.scale, quantised.minimum][: len(parts)], 1).view(rows, size)
    # Solved for the change, held back a little: groups whose levels are all alike would make it singular.
    rest = target.view(rows, size) - (system @ known[:, :, None])[:, :, 0]
    system.diagonal(dim1=1, dim2=2).mul_(1.001).add_(1e-12)
    change, failed = torch.linalg.solve_ex(system, rest[:, :, None])
    found = (known + change[:, :, 0]).view(rows, len(parts), groups).half().float()
    minimum = found[:, 1].contiguous() if len(parts) == 2 else quantised.minimum
    fitted = Quantised(quantised.kind, quantised.levels, found[:, 0].contiguous(), minimum)
    better = output_error(weight, fitted, hessian) < output_error(weight, quantised, hessian)
    better &= (failed == 0) & found.isfinite().all(2).all(1)
    return Quantised(
        quantised.kind,
        quantised.levels,
        torch.where(better[:, None], fitted.scale, quantised.scale),
        torch.where(better[:, None], minimum, quantised.minimum),
    )


def output_error(weight: Tensor, quantised: Quantised | Tensor, hessian: Tensor) -> Tensor:
    """Mean squared error of each output, shape (rows,).

    Args:
        weight: shape (rows, columns).
        quantised: the matrix, rounded, or its values.
        hessian: as in `gptq`.
    """
    values = quantised.values() if isinstance(quantised, Quantised) else quantised
    difference = weight - values
    return ((difference @ hessian.to(difference.dtype)) * difference).sum(1)
