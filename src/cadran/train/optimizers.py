"""Which optimizer trains which parameter."""

from dataclasses import dataclass
from typing import Literal

import torch

from cadran.model.transformer import Transformer
from cadran.train.muon import Muon


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Peak learning rates and decays.

    Attributes:
        name: ``muon`` (Muon for the blocks' matrices, AdamW for the rest) or ``adamw`` for everything.
        matrix_rate: peak rate of the blocks' matrices.
        embedding_rate: peak rate of embeddings and head (AdamW).
        norm_rate: peak rate of the norms' weights (AdamW).
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: decoupled, on the blocks' matrices only.
    """

    name: Literal["muon", "adamw"] = "muon"
    matrix_rate: float = 0.01
    embedding_rate: float = 0.03
    norm_rate: float = 0.03
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0


def make_optimizers(
    model: Transformer, config: OptimizerConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Optimizers over all parameters, each group carrying its peak rate under ``peak``.

    Embeddings and norms are never decayed. ``dtype`` is that of Muon's products.
    """
    matrices, embeddings, norms = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            norms.append(parameter)
        elif ".layers." in name:
            matrices.append(parameter)
        else:
            embeddings.append(parameter)
    groups = [
        {"params": embeddings, "lr": config.embedding_rate, "weight_decay": 0.0},
        {"params": norms, "lr": config.norm_rate, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "muon":
        optimizers.append(Muon(matrices, config.matrix_rate, config.momentum, config.weight_decay, dtype))
    else:
        groups.append({"params": matrices, "lr": config.matrix_rate, "weight_decay": config.weight_decay})
    # fused: one pass over each tensor instead of six (0.3 % of a step in place of 5).
    optimizers.append(torch.optim.AdamW(groups, betas=config.betas, eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to its peak times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
