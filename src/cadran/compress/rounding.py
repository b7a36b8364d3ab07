"""Rounding to the nearest level of a scale that is searched for, group by group.

The scale that just spans a group is seldom that of least error in four bits: a slightly smaller one cuts off the
largest weight and rounds the others better. Candidates are tried, then the scale of least squares for the levels found.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cadran.compress.blocks import GROUP, Grid, Kind, Quantised
from cadran.errors import UserError
from cadran.model.gguf.legacy_quants import pack_q4_0

LARGEST = 65_504.0
"""What float16 can say; no weight of a language model comes near."""
_PIECE = 1 << 14  # groups looked at together: 2 MiB of float32, which stays in the cache
_FULL = (0.70, 0.76, 0.82, 0.86, 0.90, 0.93, 0.96, 1.0, 1.04, 1.08, 1.12, 1.15)
_COARSE = (0.85, 0.95, 1.0, 1.1)
_CUTS = (0.0, 0.02, 0.05, 0.08, 0.12)
_COARSE_CUTS = (0.0, 0.06)
_REFINEMENTS = 2


def nearest(weight: Tensor, kind: Kind, importance: Tensor | None = None, *, coarse: bool = False) -> Quantised:
    """Round a matrix.

    Args:
        weight: float32, shape (rows, columns), columns a multiple of 32.
        kind: of the blocks.
        importance: of each column's squared error, shape (columns,), not negative; None means nobody knows, and
            gives Q4_0 its usual scale.
        coarse: try fewer scales, for searches that round often.

    Raises:
        UserError: a weight is not finite or too large for float16.
    """
    rows = len(weight)
    refuse_unfit(weight)
    groups = weight.detach().reshape(-1, GROUP)
    wide = None if importance is None else importance.float().view(-1, GROUP).repeat(rows, 1)
    levels, scales, minima = torch.empty_like(groups, dtype=torch.int8), [], []
    for first in range(0, len(groups), _PIECE):
        piece = slice(first, first + _PIECE)
        if kind == "Q4_0" and wide is None and not coarse:
            levels[piece], grid = _usual(groups[piece])
        else:
            grid = best_grid(groups[piece], kind, None if wide is None else wide[piece], coarse=coarse)
            levels[piece] = grid.levels(groups[piece]).to(torch.int8)
        scales.append(grid.scale)
        minima.append(grid.minimum)
    return Quantised.of(rows, levels, Grid(kind, torch.cat(scales), torch.cat(minima)))


def refuse_unfit(weight: Tensor) -> None:
    """Stop at weights that no group can hold.

    Raises:
        UserError: one is not finite or too large for float16.
    """
    if not float(weight.abs().max()) <= LARGEST:  # also when it is not a number
        raise UserError("the model has weights that are infinite, not a number or beyond float16; train or fetch again")


def best_grid(groups: Tensor, kind: Kind, importance: Tensor | None = None, *, coarse: bool = False) -> Grid:
    """The grid of least squared error of each group.

    Args:
        groups: weights, float32, shape (n, 32).
        kind: of the blocks.
        importance: of each weight's squared error, broadcastable to (n, 32); None means all alike.
        coarse: try fewer scales.
    """
    if kind == "Q8_0":
        # As every other writer of Q8_0 does; a searched scale gains a hundredth of an error that nobody can measure.
        scale = _half(groups.abs().amax(1, keepdim=True) / 127)
        return Grid(kind, scale, torch.zeros_like(scale))
    weights = torch.ones((), dtype=groups.dtype) if importance is None else importance
    best: Grid | None = None
    least = torch.full((len(groups), 1), torch.inf)
    candidates = _symmetric(groups, coarse) if kind == "Q4_0" else _asymmetric(groups, coarse)
    for grid in candidates:
        best, least = _better(best, least, grid, groups, weights)
    assert best is not None
    for _ in range(0 if coarse else _REFINEMENTS):
        best, least = _better(best, least, _least_squares(best, groups, weights), groups, weights)
    return best


def _usual(groups: Tensor) -> tuple[Tensor, Grid]:
    """Levels and grid of the rule that llama.cpp and `cadran export` have.

    Nothing is searched for: where no text says what counts, less error of the weights is more loss all the same
    (SmolLM2: perplexity +20 % with the scales of least error, +15 % with these).
    """
    with np.errstate(all="ignore"):  # groups of zeros
        blocks = pack_q4_0(groups.numpy())
    levels = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], 1).astype(np.int8) - np.int8(8)
    scale = torch.from_numpy(blocks["scale"].astype(np.float32))[:, None]
    return torch.from_numpy(levels), Grid("Q4_0", scale, torch.zeros_like(scale))


def _symmetric(groups: Tensor, coarse: bool) -> Iterator[Grid]:
    largest = groups.abs().amax(1, keepdim=True)
    # -8 has no counterpart on the positive side; the sign of the scale decides who gets it.
    for sign in (1.0, -1.0):
        for factor in _COARSE if coarse else _FULL:
            scale = _half(largest * (sign * factor / 8))
            yield Grid("Q4_0", scale, torch.zeros_like(scale))


def _asymmetric(groups: Tensor, coarse: bool) -> Iterator[Grid]:
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    span = high - low
    cuts = _COARSE_CUTS if coarse else _CUTS
    for below in cuts:
        for above in cuts:
            yield Grid("Q4_1", _half(span * ((1 - below - above) / 15)), _half(low + span * below))


def _least_squares(grid: Grid, groups: Tensor, importance: Tensor) -> Grid:
    """The grid that fits the levels of another one best."""
    levels = grid.levels(groups)
    weighted = levels * importance
    squares = (weighted * levels).sum(1, keepdim=True)
    products = (weighted * groups).sum(1, keepdim=True)
    if grid.kind == "Q4_0":
        scale = torch.where(squares > 0, products / squares, grid.scale)
        return Grid("Q4_0", _half(scale), grid.minimum)
    counts = (importance * torch.ones_like(groups)).sum(1, keepdim=True)
    firsts = weighted.sum(1, keepdim=True)
    sums = (importance * groups).sum(1, keepdim=True)
    determinant = squares * counts - firsts**2
    known = determinant > 1e-6 * squares * counts  # else all levels are the same one
    scale = torch.where(known, (products * counts - firsts * sums) / determinant, grid.scale)
    minimum = torch.where(known, (squares * sums - firsts * products) / determinant, grid.minimum)
    return Grid("Q4_1", _half(scale), _half(minimum))


def _better(best: Grid | None, least: Tensor, grid: Grid, groups: Tensor, importance: Tensor) -> tuple[Grid, Tensor]:
    """Of each group the better of two grids, and its error."""
    error = ((grid.values(grid.levels(groups)) - groups).square_() * importance).sum(1, keepdim=True)
    if best is None:
        return grid, error
    better = error < least
    chosen = Grid(
        grid.kind,
        torch.where(better, grid.scale, best.scale),
        torch.where(better, grid.minimum, best.minimum),
    )
    return chosen, torch.where(better, error, least)


def _half(scale: Tensor) -> Tensor:
    """As float16 will have it."""
    return scale.clamp(-LARGEST, LARGEST).half().float()
