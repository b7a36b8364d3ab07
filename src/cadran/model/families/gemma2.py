"""Gemma 2 (2024): scaled embeddings, norms on both sides of each block, windows in every other layer, soft caps."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import (
    ACTIVATION_NAMES,
    Family,
    activation,
    common_config,
    common_fields,
    layer_types,
    some_windows,
)
from cadran.model.families.fields import Fields


def gemma_changes(fields: Fields) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    biased = fields.flag("attention_bias")
    return {
        "head_width": fields.integer("head_dim", 256),
        "activation": activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
        "norm_offset": 1.0,
        "norm_order": "both",
        "qkv_bias": biased,
        "output_bias": biased,
        "embedding_scale": fields.integer("hidden_size") ** 0.5,
        "attention_scale": fields.number("query_pre_attn_scalar", 256) ** -0.5,
    }


def gemma_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that ``gemma_changes`` reads, and the caps and windows."""
    assert config.attention_scale is not None
    return common_fields(config) | {
        "hidden_activation": ACTIVATION_NAMES[config.activation],
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": whole(config.attention_scale**-2),
        "attn_logit_softcapping": config.attention_cap,
        "final_logit_softcapping": config.logit_cap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def whole(number: float) -> float | int:
    """A number that was whole before a root and a power bent it."""
    nearest = round(number)
    return nearest if abs(number - nearest) < 1e-6 * max(1, abs(number)) else number


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Gemma 2."""
    caps: dict[str, Any] = {
        ours: fields.number(theirs, default) if fields.content.get(theirs, default) is not None else None
        for ours, theirs, default in (
            ("attention_cap", "attn_logit_softcapping", 50.0),
            ("logit_cap", "final_logit_softcapping", 30.0),
        )
    }
    windowed = some_windows(fields, lambda layer: layer % 2 == 0)
    return common_config(
        fields, "gemma2", tied=True, window=fields.integer("sliding_window", 4096), windowed=windowed, **caps,
        **gemma_changes(fields),
    )  # fmt: skip


FAMILY = Family("gemma2", "Gemma2ForCausalLM", "Gemma 2", read, gemma_fields)
