"""Qwen 3 (2025): Llama with normalised queries and keys. What Cadran trains has this architecture."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, common_fields
from cadran.model.families.fields import Fields
from cadran.model.families.qwen2 import upper_windows, window_fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Qwen 3."""
    biased = fields.flag("attention_bias")
    return common_config(
        fields, "qwen3", qk_norm="head", head_width=fields.integer("head_dim", 128), qkv_bias=biased,
        output_bias=biased, **upper_windows(fields),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Qwen 3."""
    return common_fields(config) | window_fields(config) | {"attention_bias": config.qkv_bias}


FAMILY = Family("qwen3", "Qwen3ForCausalLM", "Qwen 3; what Cadran trains", read, write)
