"""Which optimizer trains which parameter."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from cadran.train.muon import Muon

ADAPTER = ("lora_A", "lora_B", "magnitude")
"""Last part of the names of an adapter's parameters."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Peak learning rates and decays.

    Attributes:
        name: ``muon`` (Muon for the blocks' matrices, AdamW for the rest) or ``adamw`` for everything.
        matrix_rate: peak rate of the blocks' matrices.
        embedding_rate: peak rate of embeddings and head (AdamW).
        norm_rate: peak rate of the norms' weights (AdamW).
        adapter_rate: peak rate of an adapter's factors (AdamW: a factor of rank r alone is no map to orthogonalise).
        scalar_rate: peak rate of a head with one output, of rewards or values (AdamW).
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: decoupled, on the blocks' matrices only.
    """

    name: Literal["muon", "adamw"] = "muon"
    matrix_rate: float = 0.01
    embedding_rate: float = 0.03
    norm_rate: float = 0.03
    adapter_rate: float = 0.0005
    scalar_rate: float = 0.001
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0


def make_optimizers(
    model: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Optimizers over the parameters that want a gradient, each group carrying its peak rate under ``peak``.

    Embeddings, norms, adapters and scalar heads are never decayed. ``dtype`` is that of Muon's products.
    """
    kinds: dict[str, list[nn.Parameter]] = {kind: [] for kind in ("embedding", "norm", "adapter", "scalar", "matrix")}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds[_kind(name, parameter)].append(parameter)
    matrices = kinds.pop("matrix")
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": getattr(config, f"{kind}_rate"), "weight_decay": 0.0}
        for kind, parameters in kinds.items()
        if parameters
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices and config.name == "muon":
        optimizers.append(Muon(matrices, config.matrix_rate, config.momentum, config.weight_decay, dtype))
    elif matrices:
        groups.append({"params": matrices, "lr": config.matrix_rate, "weight_decay": config.weight_decay})
    if groups:
        # fused: one pass over each tensor instead of six (0.3 % of a step in place of 5).
        optimizers.append(torch.optim.AdamW(groups, betas=config.betas, eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _kind(name: str, parameter: nn.Parameter) -> str:
    if name.rpartition(".")[2] in ADAPTER:
        return "adapter"
    if parameter.ndim == 1:
        return "norm"
    if parameter.shape[0] == 1:
        return "scalar"
    return "matrix" if ".layers." in name else "embedding"


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to its peak times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
