"""What a family is: how its ``config.json`` and its weight names map onto the one Transformer.

A file of a family says nothing but its differences; the parts that most share are here.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError
from cadran.model.config import Activation, ModelConfig
from cadran.model.families.fields import Fields
from cadran.model.families.rope_fields import read_rope, write_rope


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a parameter of ours lies in a checkpoint.

    Attributes:
        ours: regular expression that matches a whole name of ours.
        theirs: replacement, with groups as \\1.
        part: among the parameters of ours that lie one under the other in that tensor, from 0.
        transposed: whether a matrix lies as (in, out) there.
    """

    ours: str
    theirs: str
    part: int = 0
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a checkpoint and the parameters of ours in it, from top to bottom."""

    name: str
    ours: tuple[str, ...]
    transposed: bool


@dataclass(frozen=True, slots=True)
class Family:
    """One published architecture.

    Attributes:
        name: its ``model_type``.
        architecture: its class in ``transformers``.
        models: the best known models, for the table of the README.
        read: configuration from the fields of a ``config.json``.
        write: the fields that differ from ``common_fields``.
        rules: for parameters whose name differs from ours; the first that matches counts.
        ignored: regular expression of names in a checkpoint that are no weights.
    """

    name: str
    architecture: str
    models: str
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    rules: tuple[Rule, ...] = ()
    ignored: str = r".*\.rotary_emb\.inv_freq"

    def stored(self, ours: Iterable[str]) -> list[Stored]:
        """Lay the parameters of a model out as this family's checkpoints do.

        Args:
            ours: names of parameters, in the model's order.

        Returns:
            The tensors of a checkpoint in order of first appearance.
        """
        places: dict[str, list[tuple[int, str]]] = {}
        turned: dict[str, bool] = {}
        compiled = [(re.compile(rule.ours), rule) for rule in self.rules]
        for name in ours:
            theirs, part, transposed = name, 0, False
            for pattern, rule in compiled:
                if match := pattern.fullmatch(name):
                    theirs, part, transposed = match.expand(rule.theirs), rule.part, rule.transposed
                    break
            places.setdefault(theirs, []).append((part, name))
            turned[theirs] = transposed
        return [Stored(name, tuple(ours for _, ours in sorted(parts)), turned[name]) for name, parts in places.items()]

    def to_huggingface(self, config: ModelConfig, ids: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of ``config.json``.

        Args:
            config: of this family.
            ids: special tokens to name (``bos_token_id``, ``eos_token_id``, ``pad_token_id``).
        """
        return {"architectures": [self.architecture], "model_type": self.name, "torch_dtype": "float32",
                "use_cache": True, "initializer_range": 0.02, **self.write(config), **(ids or {})}  # fmt: skip


def common_config(
    fields: Fields, family: str, *, base: float = 10_000.0, tied: bool = False, **changes: Any
) -> ModelConfig:
    """A configuration from the fields that the Llama-shaped families share.

    Args:
        fields: of the model.
        family: its name.
        base: of the rotary positions, where the file names none.
        tied: whether the head is the embedding, where the file does not say.
        changes: what the family does differently, as arguments of ``ModelConfig``.

    Raises:
        UserError: a field is missing or impossible.
    """
    heads, width = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    if not heads:
        raise UserError(f"{fields.where} gives no attention head; fetch or export the model again")
    context = fields.integer("max_position_embeddings")
    if "rope" not in changes:
        changes["rope"] = read_rope(fields, context, base)
    chosen: dict[str, Any] = {
        "vocabulary": fields.integer("vocab_size"),
        "layers": fields.layers(),
        "width": width,
        "heads": heads,
        "kv_heads": fields.integer("num_key_value_heads", heads),
        "head_width": fields.integer("head_dim", width // heads),
        "hidden": fields.integer("intermediate_size"),
        "context": context,
        "tied": fields.flag("tie_word_embeddings", tied),
        "norm_epsilon": fields.number("rms_norm_eps", 1e-6),
        "qk_norm": None,
        "activation": activation(fields),
    }
    return ModelConfig(family=family, **(chosen | changes))


def common_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that the Llama-shaped families share, as ``transformers`` writes them."""
    return {
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "attention_dropout": 0.0,
        **rope_fields(config),
    }


def rope_fields(config: ModelConfig) -> dict[str, Any]:
    """Rotary positions in the notation of today, and the base also where older readers look for it."""
    assert config.rope is not None
    return {"rope_parameters": write_rope(config.rope), "rope_theta": config.rope.base}


ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def activation(fields: Fields, name: str = "hidden_act", default: str = "silu") -> Activation:
    """Our name of an activation.

    Raises:
        UserError: one that is not known.
    """
    asked = fields.text(name, default)
    if asked not in _ACTIVATIONS:
        raise UserError(
            f"{fields.where} asks for {asked[:40]!r}, which is none of {', '.join(_ACTIVATIONS)}; pick another model"
        )
    return _ACTIVATIONS[asked]


def every_window(fields: Fields, name: str = "sliding_window", default: int | None = None) -> dict[str, Any]:
    """Changes for a model whose every layer has the window that a field names, if it names one."""
    width = fields.content.get(name, default)
    if width is None:
        return {}
    return {"window": Fields({name: width}).integer(name), "windowed": (True,) * fields.layers()}


def some_windows(fields: Fields, otherwise: Callable[[int], bool]) -> tuple[bool, ...]:
    """For each layer, whether it has the window: as ``layer_types`` says, or by the rule of the family."""
    layers, types = fields.layers(), fields.sequence("layer_types")
    if not types:
        return tuple(otherwise(layer) for layer in range(layers))
    if len(types) != layers or not set(types) <= {"sliding_attention", "full_attention"}:
        raise UserError(
            f"{fields.where} has layer_types that do not fit its {layers} layers; fetch or export the model again"
        )
    return tuple(kind == "sliding_attention" for kind in types)


def layer_types(config: ModelConfig) -> list[str]:
    """``layer_types`` of a configuration."""
    windowed = config.windowed or (False,) * config.layers
    return ["sliding_attention" if local else "full_attention" for local in windowed]
