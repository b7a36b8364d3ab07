"""The architectures under which llama.cpp knows Cadran's families: tables of keys and names, and the limits of each.

A limit is something that a family may do and llama.cpp, given a file of that architecture, would silently do otherwise
(facts from its loader and graphs): such a model is refused instead of written wrong.
"""

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.families.fields import Fields
from cadran.model.gguf import metadata, names
from cadran.model.gguf.metadata import Content, Key
from cadran.model.gguf.places import NameRule
from cadran.model.gguf.reader import GgufTensor

_Read = Callable[[Content, Fields, Mapping[str, GgufTensor]], None]
_Write = Callable[[ModelConfig, dict[str, object]], None]


@dataclass(frozen=True)
class Limit:
    """Something that llama.cpp does not do under an architecture.

    Attributes:
        what: in words, after "has no".
        kept: whether a model stays within it.
    """

    what: str
    kept: Callable[[ModelConfig], bool]


@dataclass(frozen=True)
class Architecture:
    """One architecture of llama.cpp.

    Attributes:
        name: ``general.architecture`` in the file.
        families: ``model_type`` of the checkpoints that are stored under it.
        keys: what the metadata say one to one.
        rules: names and shapes of the tensors.
        read: adds the fields that take more than a key.
        write: adds the keys that take more than a field.
        family: which of ``families`` a file is.
        stretched: kinds of rotary positions that llama.cpp stretches by.
        limits: what it does not do.
        head_needed: whether it wants the output head even when that is the embedding.
    """

    name: str
    families: tuple[str, ...]
    keys: tuple[Key, ...]
    rules: tuple[NameRule, ...]
    read: _Read
    write: _Write
    family: Callable[[Fields, Container[str]], str]
    stretched: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    head_needed: bool = False

    def refuse_beyond_limits(self, model: ModelConfig) -> None:
        """Stop before a file is written that llama.cpp would open and compute otherwise.

        Raises:
            UserError: the model does what llama.cpp does not.
        """
        kind = model.rope.kind if model.rope else "default"
        stretch = Limit(
            f"positions stretched by {kind}", lambda _: kind in self.stretched or kind in ("default", "dynamic")
        )
        for limit in (stretch, *self.limits):
            if not limit.kept(model):
                raise UserError(
                    f"llama.cpp's architecture {self.name} has no {limit.what}, so a GGUF file of this model would "
                    "compute something else; export it with --hf instead"
                )


def _only(family: str) -> Callable[[Fields, Container[str]], str]:
    return lambda fields, tensors: family


def _window_unless(every: int) -> Callable[[ModelConfig], bool]:
    """Whether each layer but every n-th has the window."""
    return lambda model: all(local == bool((i + 1) % every) for i, local in enumerate(model.windowed or [False]))


def _usual_scale(model: ModelConfig) -> bool:
    content = {"num_hidden_layers": model.layers, "hidden_size": model.width, "num_attention_heads": model.heads}
    width = metadata.gemma_score_width(model.family, content | {"head_dim": model.head_width})
    return model.attention_scale is not None and math.isclose(model.attention_scale, width**-0.5, rel_tol=1e-6)


def _told_by_yarn(model: ModelConfig) -> bool:
    rope = model.rope
    return rope is None or rope.kind != "yarn" or (rope.magnitude is None and rope.mscale == rope.mscale_all > 0)


def _dense_layers_first(model: ModelConfig) -> bool:
    return model.experts is not None and list(model.experts.sparse) == sorted(model.experts.sparse)


_SILU = Limit("activation but silu", lambda model: model.activation == "silu")
_GELU = Limit("activation but gelu by tanh", lambda model: model.activation == "gelu_tanh")
_UNBIASED = Limit("bias in its attention", lambda model: not model.qkv_bias and not model.output_bias)
_UNWINDOWED = Limit("sliding window", lambda model: model.window is None)
_WHOLE_HEADS = Limit("heads turned in part", lambda model: model.rope is not None and model.rope.share == 1)
_SQUARE = Limit("heads wider or narrower than hidden_size", lambda model: model.heads * model.head_width == model.width)
_ROUNDED = Limit("yarn with truncate=false", lambda model: model.rope is None or model.rope.truncate)
_PLAIN = (_SILU, _WHOLE_HEADS, _ROUNDED)
_GEMMA = (
    _GELU,
    _UNBIASED,
    _WHOLE_HEADS,
    _ROUNDED,
    Limit("query_pre_attn_scalar but its own", _usual_scale),
    Limit("output head of its own", lambda model: model.tied),
)

ARCHITECTURES = (
    Architecture(
        "llama", ("llama", "mistral", "mixtral"), metadata.LLAMA, names.LLAMA, metadata.read_llama,
        metadata.write_common, metadata.llama_family, frozenset(("linear", "yarn", "llama3", "longrope")), _PLAIN,
    ),
    Architecture(
        "qwen2", ("qwen2",), metadata.QWEN2, names.QWEN2, metadata.read_common, metadata.write_common, _only("qwen2"),
        frozenset(("linear", "yarn")), (*_PLAIN, _UNWINDOWED, _SQUARE),
    ),
    Architecture(
        "qwen3", ("qwen3",), metadata.QWEN3, names.QWEN3, metadata.read_common, metadata.write_common, _only("qwen3"),
        frozenset(("linear", "yarn")), (*_PLAIN, _UNWINDOWED, _UNBIASED),
    ),
    Architecture(
        "qwen3moe", ("qwen3_moe",), metadata.QWEN3_MOE, names.QWEN3_MOE, metadata.read_qwen3_moe,
        metadata.write_common, _only("qwen3_moe"), frozenset(("linear", "yarn")),
        (
            *_PLAIN, _UNWINDOWED, _UNBIASED,
            Limit("norm_topk_prob=false", lambda model: model.experts is not None and model.experts.normalise),
            Limit("layers without experts", lambda model: model.experts is not None and all(model.experts.sparse)),
        ),
    ),
    Architecture(
        "gemma2", ("gemma2",), metadata.GEMMA2, names.GEMMA2, metadata.read_gemma2, metadata.write_common,
        _only("gemma2"), frozenset(("linear", "yarn")),
        (
            *_GEMMA,
            Limit("layer_types but its own", _window_unless(2)),
            Limit("scores without a soft cap", lambda model: None not in (model.attention_cap, model.logit_cap)),
        ),
    ),
    Architecture(
        "gemma3", ("gemma3_text",), metadata.GEMMA3, names.GEMMA3, metadata.read_gemma3, metadata.write_gemma3,
        _only("gemma3_text"), frozenset(("linear", "yarn")),
        (
            *_GEMMA,
            Limit("layer_types but its own", _window_unless(6)),
            Limit("soft cap of the scores", lambda model: model.attention_cap is None),
            Limit("stretched positions in its windows",
                  lambda model: model.local_rope is not None and model.local_rope.kind == "default"),
        ),
    ),
    Architecture(
        "phi3", ("phi3",), metadata.PHI3, names.PHI3, metadata.read_common, metadata.write_phi3, _only("phi3"),
        frozenset(("longrope",)), (_SILU, _SQUARE, _UNBIASED),
    ),
    Architecture(
        "olmo2", ("olmo2",), metadata.OLMO2, names.OLMO2, metadata.read_common, metadata.write_common,
        _only("olmo2"), frozenset(("linear", "yarn")), (*_PLAIN, _UNBIASED, _UNWINDOWED, _SQUARE), head_needed=True,
    ),
    Architecture(
        "gpt2", ("gpt2",), metadata.GPT2, names.GPT2, metadata.read_nothing, metadata.write_nothing, _only("gpt2"),
        limits=(_GELU,),
    ),
    Architecture(
        "deepseek2", ("deepseek_v2", "deepseek_v3"), metadata.DEEPSEEK2, names.DEEPSEEK2, metadata.read_deepseek2,
        metadata.write_deepseek2, metadata.deepseek_family, frozenset(("linear", "yarn")),
        (
            *_PLAIN, _UNBIASED,
            Limit("yarn but with equal mscale and mscale_all_dim", _told_by_yarn),
            Limit("pairs in halves (rope_interleave=false)", lambda m: m.latent is not None and m.latent.interleaved),
            Limit("dense layers behind those with experts", _dense_layers_first),
        ),
        head_needed=True,
    ),
)  # fmt: skip
"""In the order of llama.cpp's own list of the families that Cadran knows."""


def architecture_named(name: object) -> Architecture:
    """The architecture of a file.

    Raises:
        UserError: none that is known.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise UserError(
        f"the GGUF architecture {str(name)[:60]!r} is not known; Cadran opens {known}, so pick one of those"
    )


def architecture_of(family: str) -> Architecture:
    """The architecture under which a family is stored.

    Raises:
        UserError: llama.cpp does not know the family.
    """
    for architecture in ARCHITECTURES:
        if family in architecture.families:
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.families)
    raise UserError(f"a model of the family {family!r} cannot be written as GGUF; Cadran writes {known}")
