"""Mistral (Jiang et al. 2023): Llama with a window over the last positions in every layer."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, common_fields, every_window
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Mistral."""
    return common_config(fields, "mistral", **every_window(fields, default=4096))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Mistral."""
    return common_fields(config) | {"sliding_window": config.window}


FAMILY = Family("mistral", "MistralForCausalLM", "Mistral 7B, Nemo, Small", read, write)
