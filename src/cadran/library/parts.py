"""Which part of a Transformer a tensor belongs to, from its name in a Hugging Face checkpoint or a GGUF file."""

import re
from typing import Literal, get_args

Part = Literal["embedding", "attention", "mlp", "experts", "router", "norms", "head", "other"]
PARTS: tuple[Part, ...] = get_args(Part)

_RULES: tuple[tuple[Part, str], ...] = (
    # Norms first: `self_attn.q_norm` and `post_attention_layernorm` are none of attention's matrices.
    ("norms", r"norm|(?:^|\.)ln_"),
    ("head", r"(?:^|\.)lm_head\.|^output\."),
    ("embedding", r"embed|(?:^|\.)wte\.|(?:^|\.)wpe\.|token_embd|position_embd"),
    ("router", r"(?:mlp|moe)\.gate\.|shared_expert_gate|ffn_gate_inp|exp_probs_b"),
    ("experts", r"\.experts\.|_exps\."),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|ffn|feed_forward|shared_expert"),
)
_COMPILED = tuple((part, re.compile(pattern)) for part, pattern in _RULES)


def part_of(name: str) -> Part:
    """The part that a tensor belongs to; ``other`` for what no rule knows (frequencies of rotary positions)."""
    return next((part for part, pattern in _COMPILED if pattern.search(name)), "other")
