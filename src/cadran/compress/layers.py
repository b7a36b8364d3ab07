"""Quantising a model in memory, layer by layer, each on what the layers before it really give when quantised."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from cadran.compress.activations import Moments, Prefix
from cadran.compress.awq import best_scale
from cadran.compress.blocks import GROUP, Kind, Quantised
from cadran.compress.folds import folds
from cadran.compress.gptq import gptq
from cadran.compress.rounding import nearest
from cadran.model.transformer import Block, Transformer

Method = Literal["round", "awq", "gptq", "awq+gptq"]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""

_STEPS = (
    ("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"), ("q_b_proj",), ("o_proj",),
    ("gate_proj", "up_proj"), ("down_proj",),
)  # fmt: skip
"""Maps of a layer in the order in which their inputs exist; those of one step and one module read the same.

``kv_b_proj`` is missing: llama.cpp wants its halves turned, and so rounds along the other axis.
"""


def silent(doing: str, done: int, total: int) -> None:
    """Draw nothing."""


@torch.no_grad()
def quantise_layers(
    model: Transformer,
    kinds: Callable[[str], Kind],
    windows: Tensor | None = None,
    method: Method = "round",
    progress: Progress = silent,
) -> dict[str, Quantised]:
    """Quantise the linear maps of all layers; embedding and head are left to whoever writes the file.

    Args:
        model: float32; on return its maps hold the rounded weights, and its norms the folded scales.
        kinds: the kind of a map's blocks by its name (``model.layers.3.mlp.up_proj``).
        windows: calibration tokens, shape (windows, T); None rounds to the nearest, unseen.
        method: what to do with them: nothing but weigh each column (``round``), scale channels, feed errors back, or
            both.
        progress: told of each layer.

    Returns:
        By parameter name. Maps whose rows do not divide into groups of 32 are missing.

    Raises:
        UserError: a weight is not finite or too large for float16.
    """
    found: dict[str, Quantised] = {}
    prefix = None if windows is None else Prefix.of(model, windows)
    for number, block in enumerate(model.model.layers):
        assert isinstance(block, Block)
        progress("layers", number, len(model.model.layers))
        start = f"model.layers.{number}."
        wanted = {name: kinds(start + name) for name in _maps(block)}
        if prefix is not None and "awq" in method:
            _scale(block, number, prefix, wanted)
        for names in _steps(wanted):
            moments = _observed(block, number, prefix, names)
            for name in names:
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                weight, seen = linear.weight, moments.get(_first(names, name))
                if seen is None or not seen.count:
                    rounded = nearest(weight, wanted[name])
                elif "gptq" in method:
                    rounded = gptq(weight, seen.hessian, wanted[name])
                else:
                    rounded = nearest(weight, wanted[name], seen.hessian.diagonal())
                linear.weight.copy_(rounded.values())
                found[f"{start}{name}.weight"] = rounded
        if prefix is not None:
            prefix.advance(block, number)
    progress("layers", len(model.model.layers), len(model.model.layers))
    return found


def _scale(block: Block, number: int, prefix: Prefix, kinds: dict[str, Kind]) -> None:
    """Scale the channels of a layer where that helps, on its unrounded weights."""
    there = [fold for fold in folds(block) if all(name in kinds for name in fold.readers)]
    if not there:
        return
    moments = prefix.observe(block, number, [fold.readers[0] for fold in there])
    found = [best_scale(block, fold, moments[fold.readers[0]], kinds) for fold in there]
    for fold, scale in zip(there, found, strict=True):
        if scale is not None:
            fold.apply(block, scale)


def _observed(block: Block, number: int, prefix: Prefix | None, names: list[str]) -> dict[str, Moments]:
    return {} if prefix is None else prefix.observe(block, number, sorted({_first(names, name) for name in names}))


def _maps(block: Block) -> Iterator[str]:
    """Names of the maps that are quantised here."""
    known = {name for step in _STEPS for name in step}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in known and module.in_features % GROUP == 0:
            yield name


def _steps(names: dict[str, Kind]) -> Iterator[list[str]]:
    for step in _STEPS:
        if found := [name for name in names if name.rpartition(".")[2] in step]:
            yield found


def _first(names: list[str], name: str) -> str:
    """The first map of those that read the same as a given one."""
    parent = name.rpartition(".")[0]
    return next(other for other in names if other.rpartition(".")[0] == parent)
