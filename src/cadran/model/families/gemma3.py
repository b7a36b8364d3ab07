"""Gemma 3, text only (2025): Gemma 2 with normalised queries and keys for its caps, five windows to one whole view."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, some_windows
from cadran.model.families.fields import Fields
from cadran.model.families.gemma2 import gemma_changes, gemma_fields
from cadran.model.families.rope_fields import read_rope, write_rope


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Gemma 3."""
    context, pattern = fields.integer("max_position_embeddings"), fields.integer("sliding_window_pattern", 6)
    local_base = fields.number("rope_local_base_freq", 10_000.0)
    nested = fields.inner("rope_parameters")
    local = read_rope(
        Fields({"rope_parameters": nested.content if nested else None}), context, local_base, "sliding_attention"
    )
    return common_config(
        fields, "gemma3_text", tied=True, qk_norm="head",
        rope=read_rope(fields, context, 1e6, "full_attention"), local_rope=local,
        window=fields.integer("sliding_window", 4096),
        windowed=some_windows(fields, lambda layer: (layer + 1) % max(pattern, 1) != 0),
        attention_cap=fields.optional("attn_logit_softcapping"), logit_cap=fields.optional("final_logit_softcapping"),
        **gemma_changes(fields),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Gemma 3."""
    assert config.rope is not None and config.local_rope is not None
    ropes = {"full_attention": write_rope(config.rope), "sliding_attention": write_rope(config.local_rope)}
    content = gemma_fields(config) | {"rope_parameters": ropes, "rope_local_base_freq": config.local_rope.base}
    return content | {"use_bidirectional_attention": False}


FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", "Gemma 3 270M, 1B (text)", read, write)
