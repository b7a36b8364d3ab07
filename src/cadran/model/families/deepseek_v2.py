"""DeepSeek-V2 (2024): latent attention, shared and routed experts behind a few dense layers."""

import dataclasses
from typing import Any

from cadran.errors import UserError
from cadran.model.config import Experts, Latent, ModelConfig
from cadran.model.families.family import Family, common_config, common_fields
from cadran.model.families.fields import Fields
from cadran.model.rope_magnitude import yarn_magnitude


def latent_changes(fields: Fields) -> dict[str, Any]:
    """Latent attention of DeepSeek-V2 and V3; YaRN's sharpening goes into the scale of the scores."""
    latent = Latent(
        query_rank=fields.integer("q_lora_rank") if fields.content.get("q_lora_rank") is not None else 0,
        rank=fields.integer("kv_lora_rank"),
        plain=fields.integer("qk_nope_head_dim"),
        rotary=fields.integer("qk_rope_head_dim"),
        value=fields.integer("v_head_dim"),
        interleaved=fields.flag("rope_interleave", True),
    )
    biased, heads = fields.flag("attention_bias"), fields.integer("num_attention_heads")
    # The widths of ordinary attention are not used; what stands there must only be possible.
    return {"latent": latent, "qkv_bias": biased, "output_bias": biased, "kv_heads": heads, "head_width": latent.rotary}


def scaled(config: ModelConfig) -> ModelConfig:
    """The same with the scale of its scores."""
    assert config.latent is not None and config.rope is not None
    scale = (config.latent.plain + config.latent.rotary) ** -0.5
    if config.rope.kind != "default" and config.rope.mscale_all:
        scale *= yarn_magnitude(config.rope.factor, config.rope.mscale_all) ** 2
    return dataclasses.replace(config, attention_scale=scale)


def latent_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of latent attention and of experts that V2 and V3 share."""
    latent, experts = config.latent, config.experts
    assert latent is not None and experts is not None
    return common_fields(config) | {
        "attention_bias": config.qkv_bias,
        "q_lora_rank": latent.query_rank or None,
        "kv_lora_rank": latent.rank,
        "qk_nope_head_dim": latent.plain,
        "qk_rope_head_dim": latent.rotary,
        "v_head_dim": latent.value,
        "n_routed_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.hidden,
        "n_shared_experts": experts.shared,
        "routed_scaling_factor": experts.scale,
        "norm_topk_prob": experts.normalise,
        "first_k_dense_replace": experts.sparse.index(True) if any(experts.sparse) else config.layers,
    }


def read_experts(fields: Fields, **changes: Any) -> Experts:
    """Experts of DeepSeek: dense layers first, then a mixture in each."""
    layers, dense = fields.layers(), fields.integer("first_k_dense_replace", 0)
    if fields.integer("moe_layer_freq", 1) != 1:
        raise UserError("config.json sets moe_layer_freq, which Cadran does not know; pick another model")
    return Experts(
        count=fields.integer("n_routed_experts"),
        active=fields.integer("num_experts_per_tok"),
        hidden=fields.integer("moe_intermediate_size"),
        sparse=tuple(layer >= dense for layer in range(layers)),
        shared=fields.integer("n_shared_experts", 0),
        scale=fields.number("routed_scaling_factor", 1.0),
        **changes,
    )


def read(fields: Fields) -> ModelConfig:
    """Configuration of a DeepSeek-V2."""
    method = fields.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UserError(f"config.json routes by {method[:40]!r}, which Cadran does not know; pick another model")
    groups: dict[str, Any] = {}
    if method == "group_limited_greedy":
        groups = {"groups": fields.integer("n_group"), "active_groups": fields.integer("topk_group")}
    # `transformers` does not normalise these weights, whatever the file says.
    experts = read_experts(fields, normalise=False, **groups)
    return scaled(common_config(fields, "deepseek_v2", experts=experts, **latent_changes(fields)))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a DeepSeek-V2."""
    experts = config.experts
    assert experts is not None
    return latent_fields(config) | {
        "topk_method": "group_limited_greedy" if experts.groups else "greedy",
        "n_group": experts.groups or None,
        "topk_group": experts.active_groups or None,
    }


FAMILY = Family("deepseek_v2", "DeepseekV2ForCausalLM", "DeepSeek-V2, V2-Lite", read, write)
