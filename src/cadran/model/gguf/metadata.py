"""The metadata of a GGUF file and the fields of ``config.json``: which key says what, for each architecture.

Keys are written without the architecture's name in front ("attention.head_count"). What llama.cpp knows without being
told (an activation, the scale of the scores) stands in `architectures`; rotary positions have their own file.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.families.fields import Fields
from cadran.model.families.rope_fields import write_rope
from cadran.model.gguf.header import Value
from cadran.model.gguf.reader import GgufTensor
from cadran.model.gguf.rope_keys import read_rope_keys, short_decimal, write_rope_keys

Content = dict[str, Any]
"""Fields of a ``config.json``."""


@dataclass(frozen=True)
class Key:
    """One key and the field that says the same.

    Attributes:
        name: of the key.
        field: of ``config.json``.
        kind: of the value.
        nothing: a value of the key that stands for a field of null.
        needed: whether a file must have it.
    """

    name: str
    field: str
    kind: Literal["count", "number", "flag"] = "count"
    nothing: int | None = None
    needed: bool = False


_SIZES = (
    Key("context_length", "max_position_embeddings", needed=True),
    Key("embedding_length", "hidden_size", needed=True),
    Key("block_count", "num_hidden_layers", needed=True),
    Key("feed_forward_length", "intermediate_size", needed=True),
    Key("attention.head_count", "num_attention_heads", needed=True),
    Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "number", needed=True),
)
_KV_HEADS = Key("attention.head_count_kv", "num_key_value_heads")
_HEAD = (Key("attention.key_length", "head_dim"), Key("attention.value_length", "head_dim"))
_WINDOW = Key("attention.sliding_window", "sliding_window", nothing=0)

LLAMA = (
    *_SIZES,
    _KV_HEADS,
    *_HEAD,
    # llama.cpp has no window for this architecture and looks at the whole context; the file keeps what the model is.
    _WINDOW,
    Key("expert_count", "num_local_experts", nothing=0),
    Key("expert_used_count", "num_experts_per_tok", nothing=0),
)
QWEN2 = (*_SIZES, _KV_HEADS)
QWEN3 = (*_SIZES, _KV_HEADS, *_HEAD)
QWEN3_MOE = (
    *QWEN3,
    Key("expert_count", "num_experts", needed=True),
    Key("expert_used_count", "num_experts_per_tok", needed=True),
    Key("expert_feed_forward_length", "moe_intermediate_size", needed=True),
)
GEMMA2 = (
    *QWEN3,
    _WINDOW,
    Key("attn_logit_softcapping", "attn_logit_softcapping", "number"),
    Key("final_logit_softcapping", "final_logit_softcapping", "number"),
)
GEMMA3 = (*QWEN3, _WINDOW, Key("final_logit_softcapping", "final_logit_softcapping", "number"))
PHI3 = (*QWEN2, _WINDOW)
OLMO2 = QWEN2
GPT2 = (
    Key("context_length", "n_positions", needed=True),
    Key("embedding_length", "n_embd", needed=True),
    Key("block_count", "n_layer", needed=True),
    Key("feed_forward_length", "n_inner", needed=True),
    Key("attention.head_count", "n_head", needed=True),
    Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "number", needed=True),
)
DEEPSEEK2 = (
    *_SIZES,
    Key("leading_dense_block_count", "first_k_dense_replace"),
    Key("attention.q_lora_rank", "q_lora_rank", nothing=0),
    Key("attention.kv_lora_rank", "kv_lora_rank", needed=True),
    Key("expert_feed_forward_length", "moe_intermediate_size", needed=True),
    Key("expert_count", "n_routed_experts", needed=True),
    Key("expert_used_count", "num_experts_per_tok", needed=True),
    Key("expert_shared_count", "n_shared_experts"),
    Key("expert_weights_scale", "routed_scaling_factor", "number"),
    Key("expert_weights_norm", "norm_topk_prob", "flag"),
    Key("expert_group_count", "n_group"),
    Key("expert_group_used_count", "topk_group"),
)

_SOFTMAX, _SIGMOID = 1, 2  # scores of experts, as expert_gating_func says it
_OLDER_GROUPS = {("deepseek_v2", 160): (8, 3), ("deepseek_v3", 256): (8, 4)}
"""Groups of experts of the published models, for files from before llama.cpp had keys for them (October 2025)."""
_LONGEST_LIST = 1024  # layers


def architecture_fields(metadata: Mapping[str, Value], architecture: str, where: str) -> Fields:
    """The metadata of an architecture, its name taken off the keys.

    A list that says the same for every layer is taken for the number it repeats.

    Args:
        metadata: of the file.
        architecture: name in the file.
        where: how to name the file in an error.
    """
    content: dict[str, Value] = {}
    for key, value in metadata.items():
        if key.startswith(f"{architecture}."):
            if isinstance(value, list) and 0 < len(value) <= _LONGEST_LIST and all(item == value[0] for item in value):
                value = value[0]
            content[key.removeprefix(f"{architecture}.")] = value
    return Fields(content, where)


def read_keys(keys: Sequence[Key], fields: Fields) -> Content:
    """The fields of ``config.json`` that a file's keys say.

    Raises:
        UserError: a key is missing, is of the wrong type, or contradicts another.
    """
    content: Content = {}
    for key in keys:
        if key.name not in fields.content and not key.needed:
            continue
        value: Any
        match key.kind:
            case "count":
                value = fields.integer(key.name)
            case "number":
                value = short_decimal(fields.number(key.name))
            case "flag":
                value = fields.flag(key.name)
        if value == key.nothing:
            value = None
        if content.setdefault(key.field, value) != value:
            raise UserError(
                f"{fields.where} gives {key.name} as {value} where another key says {content[key.field]}, which no "
                "architecture that Cadran knows has; pick another model"
            )
    return content


def write_keys(keys: Sequence[Key], content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say what the fields of a ``config.json`` do; fields of null are left out."""
    values = {key.name: (content.get(key.field), key.kind) for key in keys}
    return {
        name: float(value) if kind == "number" else value for name, (value, kind) in values.items() if value is not None
    }


def read_llama(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """Head, rotary positions and biases of a Llama, Mistral or Mixtral."""
    read_common(content, fields, tensors)
    if fields.integer("rope.dimension_count", content["head_dim"]) != content["head_dim"]:
        raise UserError(f"{fields.where} turns its heads in part, which no Llama does; fetch or export the model again")
    content["attention_bias"] = "blk.0.attn_q.bias" in tensors
    content["mlp_bias"] = "blk.0.ffn_up.bias" in tensors


def read_common(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """Head and rotary positions of the plain architectures."""
    width, heads = content["hidden_size"], content["num_attention_heads"]
    if not heads:
        raise UserError(f"{fields.where} gives no attention head; fetch or export the model again")
    content.setdefault("head_dim", width // heads)
    content["rope_parameters"] = write_rope(
        read_rope_keys(fields, tensors, content["head_dim"], content["max_position_embeddings"])
    )


def read_qwen3_moe(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """What llama.cpp does in every Qwen 3 with experts."""
    read_common(content, fields, tensors)
    content["norm_topk_prob"] = True


def read_gemma2(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """The scale of the scores, which the file leaves to llama.cpp."""
    read_common(content, fields, tensors)
    content["query_pre_attn_scalar"] = gemma_score_width("gemma2", content)


def read_gemma3(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """The scale of the scores, and the rotary positions of the layers with a window."""
    read_common(content, fields, tensors)
    content["query_pre_attn_scalar"] = gemma_score_width("gemma3_text", content)
    local = short_decimal(fields.number("rope.freq_base_swa", 10_000.0))
    content["rope_parameters"] = {
        "full_attention": content["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


def gemma_score_width(family: str, content: Mapping[str, Any]) -> int:
    """The number whose inverse root scales the scores; in the 27B models, known by their layers, it is another."""
    if content["num_hidden_layers"] == {"gemma2": 46, "gemma3_text": 62}[family]:
        return int(content["hidden_size"]) // int(content["num_attention_heads"])
    return int(content["head_dim"])


def read_nothing(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """GPT-2 says all in its keys."""


def read_deepseek2(content: Content, fields: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """Widths of latent attention and the routing of DeepSeek-V2 and V3."""
    rotary = fields.integer("rope.dimension_count")
    # Files from before May 2025 give the widths of the expanded heads under the plain names.
    content["qk_rope_head_dim"] = rotary
    content["qk_nope_head_dim"] = (
        fields.integer("attention.key_length_mla", fields.integer("attention.key_length")) - rotary
    )
    content["v_head_dim"] = fields.integer("attention.value_length_mla", fields.integer("attention.value_length"))
    content.setdefault("q_lora_rank", None)
    content.setdefault("first_k_dense_replace", 0)
    content["num_key_value_heads"] = content["num_attention_heads"]
    rope = read_rope_keys(fields, tensors, rotary, content["max_position_embeddings"], latent=True)
    content["rope_parameters"] = write_rope(rope)
    family = deepseek_family(fields, tensors)
    if content.get("n_group") is None:
        groups = _OLDER_GROUPS.get((family, content["n_routed_experts"]), (1, 1))
        content["n_group"], content["topk_group"] = groups
    if family == "deepseek_v2":
        if content.pop("norm_topk_prob", False):
            raise UserError(
                f"{fields.where} scales the weights of its experts, which DeepSeek-V2 does not; pick another"
            )
        content["topk_method"] = "group_limited_greedy" if content["n_group"] > 1 else "greedy"


def write_nothing(model: ModelConfig, keys: dict[str, Any]) -> None:
    """GPT-2 says all in its keys."""


def write_common(model: ModelConfig, keys: dict[str, Any]) -> None:
    """Rotary positions of the plain architectures."""
    assert model.rope is not None
    keys |= write_rope_keys(model.rope, model.head_width, model.context)


def write_gemma3(model: ModelConfig, keys: dict[str, Any]) -> None:
    """Rotary positions of both kinds of layer."""
    write_common(model, keys)
    assert model.local_rope is not None
    keys["rope.freq_base_swa"] = model.local_rope.base


def write_phi3(model: ModelConfig, keys: dict[str, Any]) -> None:
    """Rotary positions, and the absence of a window, which llama.cpp wants to be told."""
    write_common(model, keys)
    keys.setdefault("attention.sliding_window", 0)
    assert model.rope is not None
    keys.setdefault("rope.scaling.original_context_length", model.rope.original or model.context)


def write_deepseek2(model: ModelConfig, keys: dict[str, Any]) -> None:
    """Latent attention as llama.cpp runs it: one wide head of keys and values that all heads of queries share."""
    latent, experts, rope = model.latent, model.experts, model.rope
    assert latent is not None and experts is not None and rope is not None
    keys |= {
        "attention.head_count_kv": 1,
        "attention.key_length": latent.rank + latent.rotary,
        "attention.value_length": latent.rank,
        "attention.key_length_mla": latent.plain + latent.rotary,
        "attention.value_length_mla": latent.value,
        "expert_gating_func": _SIGMOID if experts.scoring == "sigmoid" else _SOFTMAX,
    }
    keys |= write_rope_keys(rope, latent.rotary, model.context, latent=True)


def llama_family(fields: Fields, tensors: Container[str]) -> str:
    """Which of the three families that share the name a file is; without experts and window they are the same."""
    if fields.integer("expert_count", 0):
        return "mixtral"
    return "mistral" if fields.integer("attention.sliding_window", 0) else "llama"


def deepseek_family(fields: Fields, tensors: Container[str]) -> str:
    """DeepSeek-V3 scores its experts independently, V2 together."""
    return "deepseek_v3" if fields.integer("expert_gating_func", _SOFTMAX) == _SIGMOID else "deepseek_v2"
