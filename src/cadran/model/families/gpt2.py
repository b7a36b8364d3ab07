"""GPT-2 (Radford et al. 2019): learnt positions, LayerNorm, biases, a plain MLP; matrices stored as (in, out)."""

from typing import Any

from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, Rule, activation
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a GPT-2."""
    for name, usual in (("scale_attn_by_inverse_layer_idx", False), ("scale_attn_weights", True)):
        if fields.flag(name, usual) != usual:
            raise UserError(f"config.json asks for {name}={not usual}, which Cadran does not know; pick another model")
    width, heads = fields.integer("n_embd"), fields.integer("n_head")
    if not heads or width % heads:
        raise UserError(f"config.json has {heads} heads for a width of {width}; fetch or export the model again")
    return ModelConfig(
        vocabulary=fields.integer("vocab_size"), layers=fields.layers("n_layer"), width=width, heads=heads,
        kv_heads=heads, head_width=width // heads, hidden=fields.integer("n_inner", 4 * width),
        context=fields.integer("n_positions"), tied=fields.flag("tie_word_embeddings", True),
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5), rope=None, family="gpt2", norm="layer", qk_norm=None,
        activation=activation(fields, "activation_function", "gelu_new"), gated=False,
        qkv_bias=True, output_bias=True, mlp_bias=True,
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a GPT-2."""
    names = {"gelu_tanh": "gelu_new"}
    return {
        "vocab_size": config.vocabulary,
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "n_positions": config.context,
        "n_ctx": config.context,
        "tie_word_embeddings": config.tied,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": names.get(config.activation, config.activation),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _rules() -> tuple[Rule, ...]:
    layer, theirs = r"model\.layers\.(\d+)\.", r"transformer.h.\1."
    rules = [
        Rule(r"model\.embed_tokens\.weight", "transformer.wte.weight"),
        Rule(r"model\.embed_positions\.weight", "transformer.wpe.weight"),
        Rule(r"model\.norm\.(\w+)", r"transformer.ln_f.\1"),
        Rule(layer + r"input_layernorm\.(\w+)", theirs + r"ln_1.\2"),
        Rule(layer + r"post_attention_layernorm\.(\w+)", theirs + r"ln_2.\2"),
    ]
    for part, name in enumerate("qkv"):
        rules.append(Rule(layer + rf"self_attn\.{name}_proj\.(\w+)", theirs + r"attn.c_attn.\2", part, transposed=True))
    for ours, name in (
        (r"self_attn\.o_proj", "attn.c_proj"),
        (r"mlp\.up_proj", "mlp.c_fc"),
        (r"mlp\.down_proj", "mlp.c_proj"),
    ):
        rules.append(Rule(layer + ours + r"\.(\w+)", theirs + name + r".\2", transposed=True))
    return tuple(rules)


FAMILY = Family(
    "gpt2", "GPT2LMHeadModel", "GPT-2", read, write, rules=_rules(), ignored=r".*\.attn\.(bias|masked_bias)"
)
