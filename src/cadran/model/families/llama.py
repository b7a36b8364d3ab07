"""Llama 1 to 3.2, SmolLM2, Yi and the many that kept the architecture (Touvron et al. 2023)."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, common_fields
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Llama."""
    biased = fields.flag("attention_bias")
    return common_config(
        fields, "llama", qkv_bias=biased, output_bias=biased, mlp_bias=fields.flag("mlp_bias")
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Llama."""
    return common_fields(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


FAMILY = Family("llama", "LlamaForCausalLM", "Llama 1, 2, 3, 3.1, 3.2; SmolLM2; Yi", read, write)
