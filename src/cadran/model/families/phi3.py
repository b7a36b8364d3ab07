"""Phi-3 and 3.5 (2024): Llama with joined projections, a share of each head turned, and longrope."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, Rule, common_config, common_fields, every_window
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Phi-3."""
    return common_config(fields, "phi3", **every_window(fields))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Phi-3."""
    assert config.rope is not None
    return common_fields(config) | {
        "sliding_window": config.window,
        "original_max_position_embeddings": config.rope.original or config.context,
        "partial_rotary_factor": config.rope.share,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


_ATTENTION, _MLP = r"(model\.layers\.\d+\.self_attn\.)", r"(model\.layers\.\d+\.mlp\.)"
FAMILY = Family(
    "phi3", "Phi3ForCausalLM", "Phi-3, 3.5, 4-mini; Phi-4", read, write,
    rules=(
        Rule(_ATTENTION + r"q_proj\.weight", r"\1qkv_proj.weight", 0),
        Rule(_ATTENTION + r"k_proj\.weight", r"\1qkv_proj.weight", 1),
        Rule(_ATTENTION + r"v_proj\.weight", r"\1qkv_proj.weight", 2),
        Rule(_MLP + r"gate_proj\.weight", r"\1gate_up_proj.weight", 0),
        Rule(_MLP + r"up_proj\.weight", r"\1gate_up_proj.weight", 1),
    ),
)  # fmt: skip
