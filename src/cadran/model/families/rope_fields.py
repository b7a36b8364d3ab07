"""Rotary positions in a ``config.json``: the flat fields of older files, and ``rope_parameters`` of newer ones."""

from typing import Any

from cadran.errors import UserError
from cadran.model.config import Rope, RopeKind
from cadran.model.families.fields import Fields

KINDS: tuple[RopeKind, ...] = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_OLDER_NAMES = {"su": "longrope"}


def read_rope(fields: Fields, context: int, base: float = 10_000.0, layer_type: str | None = None) -> Rope:
    """The rotary positions of a model.

    Args:
        fields: of the model.
        context: its longest sequence, tokens.
        base: where the file names none.
        layer_type: take the entry of this type of layer, where each has its own.

    Raises:
        UserError: a kind that is not known, or a field of it is missing.
    """
    inner = fields.inner("rope_parameters") or fields.inner("rope_scaling") or Fields({})
    if layer_type is not None and isinstance(inner.content.get(layer_type), dict):
        inner = inner.inner(layer_type) or Fields({})
    kind = inner.text("rope_type", inner.text("type", "default"))
    kind = _OLDER_NAMES.get(kind, kind)
    if kind not in KINDS:
        raise UserError(
            f"this model stretches its positions by {kind[:40]!r} and Cadran knows {', '.join(KINDS)}; pick another"
        )
    theta = inner.number("rope_theta", fields.number("rope_theta", base))
    share = inner.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if kind == "default":
        return Rope(base=theta, share=share)
    original = fields.integer(
        "original_max_position_embeddings", inner.integer("original_max_position_embeddings", context)
    )
    stretched = inner.optional("factor")
    factor = context / original if stretched is None else stretched
    match kind:
        case "llama3":
            return Rope(
                theta,
                "llama3",
                share,
                factor,
                original,
                inner.number("low_freq_factor"),
                inner.number("high_freq_factor"),
            )
        case "yarn":
            return Rope(
                theta, "yarn", share, factor, original,
                fast=inner.number("beta_fast", 32.0), slow=inner.number("beta_slow", 1.0),
                truncate=inner.flag("truncate", True), magnitude=inner.optional("attention_factor"),
                mscale=inner.number("mscale", 0.0), mscale_all=inner.number("mscale_all_dim", 0.0),
            )  # fmt: skip
        case "longrope":
            short, long = _divisors(inner, "short_factor"), _divisors(inner, "long_factor")
            magnitude = inner.optional("attention_factor")
            return Rope(theta, "longrope", share, factor, original, magnitude=magnitude, short=short, long=long)
        case "linear":
            return Rope(theta, "linear", share, factor)
        case _:
            return Rope(theta, "dynamic", share, factor)


def write_rope(rope: Rope) -> dict[str, Any]:
    """The content of ``rope_parameters``."""
    content: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.base}
    if rope.share != 1:
        content["partial_rotary_factor"] = rope.share
    if rope.kind != "default":
        content["factor"] = rope.factor
    if rope.original:
        content["original_max_position_embeddings"] = rope.original
    if rope.kind == "llama3":
        content |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    if rope.kind == "yarn":
        content |= {"beta_fast": rope.fast, "beta_slow": rope.slow, "truncate": rope.truncate}
        content |= {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all} if rope.mscale_all else {}
    if rope.kind == "longrope":
        content |= {"short_factor": list(rope.short), "long_factor": list(rope.long)}
    if rope.magnitude is not None:
        content["attention_factor"] = rope.magnitude
    return content


def _divisors(fields: Fields, name: str) -> tuple[float, ...]:
    numbers = fields.sequence(name)
    if not numbers or not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in numbers):
        raise UserError(f"{fields.where} has no list of positive numbers {name}; fetch or export the model again")
    return tuple(float(x) for x in numbers)
