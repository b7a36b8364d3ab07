"""A small model none of whose parameters is where it began: fresh ones write nothing to the residual stream."""

from dataclasses import replace

import torch
from torch import nn

from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(
    vocabulary=40, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=32, tied=True
)


def noisy_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Transformer:
    """A model with noise on every parameter.

    Args:
        seed: of the noise.
        dtype: of the weights.
        changes: to the configuration.
    """
    model = Transformer(replace(CONFIG, **changes), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


def woken(model: nn.Module) -> None:
    """Move every B of an adapter upon it off zero, where a fresh one changes nothing, whatever is dropped."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
