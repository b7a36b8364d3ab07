"""The shape of a Transformer: the Qwen3 architecture, so that every common runtime opens what is trained here.

RMSNorm before each block, rotary positions, grouped-query attention with normalised queries and keys,
SwiGLU, no biases. Source: the Qwen3 technical report (2025) and its ``config.json`` fields.
"""

from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of a model; every length is a count of numbers, ``context`` a count of tokens."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context: int
    tied: bool = True
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; give a positive number, e.g. model.{name}=64")
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.heads={self.heads} is not a multiple of model.kv_heads={self.kv_heads}; "
                f"set model.kv_heads={self.heads} to share nothing"
            )
        if self.head_width % 2:
            raise UserError(
                f"model.head_width={self.head_width} is odd and rotary positions turn pairs; "
                f"set model.head_width={self.head_width + 1}"
            )

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the matrices inside the blocks (what Muon trains)."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.hidden)

    @property
    def parameters(self) -> int:
        """All trainable parameters, a tied embedding counted once."""
        norms = self.layers * (2 * self.width + 2 * self.head_width) + self.width
        embedding = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.matrix_parameters + norms + embedding

    def training_flops_per_token(self, context: int | None = None) -> float:
        """Floating-point operations of forward and backward for one token.

        Six per weight that multiplies the token (the output head included, the embedding look-up excluded)
        and twelve per layer, width and *average* attended position (half the context).
        Source: Kaplan et al. 2020, appendix; the convention of PaLM's model FLOPs utilisation.
        """
        length = self.context if context is None else context
        attention = 12 * self.layers * self.heads * self.head_width * length / 2
        return 6.0 * (self.matrix_parameters + self.vocabulary * self.width) + attention

    def to_huggingface(self, *, end_of_text: int, pad: int, eos: list[int]) -> dict[str, Any]:
        """The content of ``config.json`` for ``transformers``' Qwen3 classes."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": end_of_text,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.hidden,
            "max_position_embeddings": self.context,
            "max_window_layers": self.layers,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.norm_epsilon,
            "rope_scaling": None,
            "rope_theta": self.rope_base,
            "sliding_window": None,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float32",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocabulary,
        }

    @classmethod
    def from_huggingface(cls, content: dict[str, Any]) -> "ModelConfig":
        """Read a Qwen3 ``config.json``.

        Raises:
            UserError: another architecture, or a field is missing.
        """
        kind = content.get("model_type")
        if kind != "qwen3":
            raise UserError(
                f"this version opens models of the architecture qwen3 and this one is {kind!r}; pick another"
            )
        rope = content.get("rope_parameters") or content
        try:
            return cls(
                vocabulary=int(content["vocab_size"]),
                layers=int(content["num_hidden_layers"]),
                width=int(content["hidden_size"]),
                heads=int(content["num_attention_heads"]),
                kv_heads=int(content["num_key_value_heads"]),
                head_width=int(content["head_dim"]),
                hidden=int(content["intermediate_size"]),
                context=int(content["max_position_embeddings"]),
                tied=bool(content.get("tie_word_embeddings", False)),
                rope_base=float(rope["rope_theta"]),
                norm_epsilon=float(content["rms_norm_eps"]),
            )
        except KeyError as error:
            raise UserError(f"config.json has no field {error}; export the model again") from error
