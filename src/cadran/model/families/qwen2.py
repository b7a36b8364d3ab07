"""Qwen 2 and 2.5 (2024): Llama with biases on queries, keys and values, and a window in the upper layers at will."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, common_fields, layer_types, some_windows
from cadran.model.families.fields import Fields


def upper_windows(fields: Fields) -> dict[str, Any]:
    """Changes for a model that has its window from ``max_window_layers`` on, where it is switched on at all."""
    if not fields.flag("use_sliding_window") or fields.content.get("sliding_window") is None:
        return {}
    first = fields.integer("max_window_layers", 28)
    windowed = some_windows(fields, lambda layer: layer >= first)
    return {"window": fields.integer("sliding_window"), "windowed": windowed} if any(windowed) else {}


def window_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that ``upper_windows`` reads."""
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": config.windowed.index(True) if config.window else config.layers,
        "layer_types": layer_types(config),
    }


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Qwen 2."""
    return common_config(fields, "qwen2", qkv_bias=True, **upper_windows(fields))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Qwen 2."""
    return common_fields(config) | window_fields(config)


FAMILY = Family("qwen2", "Qwen2ForCausalLM", "Qwen 2, 2.5", read, write)
