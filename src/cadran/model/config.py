"""The shape of a decoder-only Transformer: sizes, and the choices in which the known families differ.

The defaults are the Qwen3 architecture, which every common runtime opens and which Cadran trains: RMSNorm before
each block, rotary positions, grouped-query attention with normalised queries and keys, SwiGLU, no biases. Everything
else is here so that ``families/`` can say what another architecture is, without another model. No torch in this file.
"""

from dataclasses import dataclass, field
from typing import Literal

from cadran.errors import UserError

Activation = Literal["silu", "gelu", "gelu_tanh"]
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions and how they are stretched beyond the context of pre-training.

    Attributes:
        base: the slowest pair turns about once in 2 pi ``base`` positions (theta).
        kind: ``default`` (Su et al. 2021), ``linear`` (Chen et al. 2023), ``dynamic`` (NTK-aware by length), ``llama3``
            (Llama 3.1), ``yarn`` (Peng et al. 2023), ``longrope`` (Ding et al. 2024).
        share: of the head's width that is turned, from its beginning (Phi-3).
        factor: by how much the context was stretched.
        original: context of pre-training, tokens; 0 means the model's own.
        low, high: wavelengths between which ``llama3`` blends, as fractions of ``original``.
        fast, slow: rotations within ``original`` between which ``yarn`` blends.
        truncate: whether ``yarn`` rounds its borders outwards to whole pairs.
        magnitude: factor on cosines and sines (``yarn``, ``longrope``); None derives it from the rest.
        mscale, mscale_all: DeepSeek's two factors, from which ``yarn`` derives its magnitude; 0 means absent.
        short, long: ``longrope``: divisor of each pair's frequency within and beyond ``original``.
    """

    base: float = 10_000.0
    kind: RopeKind = "default"
    share: float = 1.0
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    magnitude: float | None = None
    mscale: float = 0.0
    mscale_all: float = 0.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of the MLP (Shazeer et al. 2017).

    Attributes:
        count: routed experts.
        active: experts that read each token.
        hidden: inner width of one expert.
        scoring: ``softmax`` over all experts, or independent ``sigmoid`` scores (DeepSeek-V3).
        normalise: whether the weights of the chosen experts are scaled to sum to one.
        scale: factor on those weights.
        shared: experts that read every token, joined into one MLP of ``shared * hidden``.
        groups, active_groups: routing looks at the best groups of experts only; 0 means no groups.
        group_score: a group's score is its ``max`` (DeepSeek-V2) or the sum of its best two, ``top2`` (V3).
        correction: whether a learnt bias is added to the scores for the choice, not for the weights (V3).
        sparse: for each layer, whether it has experts; a dense layer has the plain MLP.
    """

    count: int
    active: int
    hidden: int
    sparse: tuple[bool, ...]
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = True
    scale: float = 1.0
    shared: int = 0
    groups: int = 0
    active_groups: int = 0
    group_score: Literal["max", "top2"] = "max"
    correction: bool = False


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, 2024): keys and values are kept as one narrow vector per position.

    Attributes:
        query_rank: width of the queries' bottleneck; 0 means none.
        rank: width of the kept vector.
        plain, rotary: widths of a head's part without and with positions.
        value: width of a head's values.
        interleaved: whether the rotary pairs are (2i, 2i + 1) instead of (i, i + D/2).
    """

    query_rank: int
    rank: int
    plain: int
    rotary: int
    value: int
    interleaved: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and choices of a model; every length is a count of numbers, ``context`` a count of tokens.

    Attributes:
        family: name of its file in ``families/``, which is the ``model_type`` of Hugging Face.
        tied: whether the output head is the embedding.
        rope: rotary positions; None for learnt positions (GPT-2).
        local_rope: those of the layers with a window, where they differ (Gemma 3).
        norm: ``rms`` or ``layer`` (with a bias).
        norm_offset: added to a norm's weight (1 in Gemma, whose stored weights are centred on 0).
        norm_order: norms ``pre`` (before a block), ``post`` (after it), or ``both``.
        qk_norm: norm of queries and keys for each ``head``, over ``all`` heads together, or none.
        activation: of the MLP; ``gelu_tanh`` is the approximation by a hyperbolic tangent.
        gated: down(act(gate) * up) instead of down(act(up)).
        qkv_bias, output_bias, mlp_bias: where the projections have biases.
        attention_scale: factor on the scores; None means 1 / sqrt(head_width).
        attention_cap, logit_cap: c * tanh(x / c) of the scores and of the logits; None leaves them.
        embedding_scale: factor on the embeddings.
        window: positions that a windowed layer sees, itself included; None when no layer has a window.
        windowed: for each layer, whether it has the window; empty when ``window`` is None.
        experts, latent: a mixture of experts, latent attention; None for the plain kind.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context: int
    tied: bool = True
    norm_epsilon: float = 1e-6
    rope: Rope | None = field(default_factory=Rope)
    family: str = "qwen3"
    local_rope: Rope | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    norm_order: Literal["pre", "post", "both"] = "pre"
    qk_norm: Literal["head", "all"] | None = "head"
    activation: Activation = "silu"
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    experts: Experts | None = None
    latent: Latent | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; give a positive number, e.g. model.{name}=64")
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.heads={self.heads} is not a multiple of model.kv_heads={self.kv_heads}; "
                f"set model.kv_heads={self.heads} to share nothing"
            )
        if self.rope is not None and self.head_width % 2:
            raise UserError(
                f"model.head_width={self.head_width} is odd and rotary positions turn pairs; "
                f"set model.head_width={self.head_width + 1}"
            )

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """What one layer keeps of one position: heads, width of the first part and of the second."""
        if self.latent is not None:
            return 1, self.latent.rank, self.latent.rotary
        return self.kv_heads, self.head_width, self.head_width

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the matrices in the blocks (what Muon trains), for the architecture that is trained here."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.hidden)

    @property
    def parameters(self) -> int:
        """All trainable parameters of the architecture that is trained here, a tied embedding counted once."""
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
