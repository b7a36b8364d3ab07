"""Rotary positions in a GGUF file: keys of its metadata, and divisors of the frequencies in tensors of their own.

Facts from llama.cpp's loader, graphs and converter. What the file says as divisors (Llama 3.1's blend) is turned back
into the numbers of the formula where they can be found, so that a configuration comes back as it was.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError
from cadran.model.config import Rope
from cadran.model.families.fields import Fields
from cadran.model.gguf.reader import GgufTensor
from cadran.model.rope_magnitude import table_magnitude, yarn_magnitude

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (FREQUENCIES, LONG, SHORT)
"""Tensors of a file that are no weights of the model but say how positions are stretched."""

Divisors = NDArray[np.float32]

_CLOSE = 1e-5  # relative: two magnitudes or divisors that went through float32 and back
_LLAMA_3 = (1.0, 4.0, 8192)  # low, high and original context of every Llama 3.1 and 3.2


def write_rope_keys(rope: Rope, width: int, context: int, *, latent: bool = False) -> dict[str, int | float | str]:
    """The keys of a model's rotary positions, without the architecture's name in front.

    Args:
        rope: base and stretching. ``dynamic`` is left out: within the context that the file declares it does nothing.
        width: of a head, or of its rotary part in latent attention.
        context: the model's longest sequence, tokens.
        latent: whether YaRN's sharpening is told in DeepSeek's way.
    """
    keys: dict[str, int | float | str] = {"rope.dimension_count": int(width * rope.share), "rope.freq_base": rope.base}
    if rope.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind == "longrope":
        keys |= {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": table_magnitude(rope, context)}
        keys["rope.scaling.original_context_length"] = rope.original or context
    if rope.kind == "yarn":
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope.factor}
        keys["rope.scaling.original_context_length"] = rope.original or context
        if (rope.fast, rope.slow) != (32.0, 1.0):
            keys |= {"rope.scaling.yarn_beta_fast": rope.fast, "rope.scaling.yarn_beta_slow": rope.slow}
        # llama.cpp sharpens by its own formula and multiplies by what the file says.
        sharper = table_magnitude(rope, context) / yarn_magnitude(rope.factor)
        if latent:
            keys["rope.scaling.yarn_log_multiplier"] = 0.1 * rope.mscale_all
        elif not math.isclose(sharper, 1, rel_tol=_CLOSE):
            keys["rope.scaling.attn_factor"] = sharper
    return keys


def write_rope_tensors(rope: Rope, width: int, context: int) -> list[tuple[str, Divisors]]:
    """Name and content of the tensors that say how positions are stretched; see `write_rope_keys`."""
    if rope.kind == "llama3":
        return [(FREQUENCIES, _blended(rope, int(width * rope.share), context))]
    if rope.kind == "longrope":
        return [(LONG, np.array(rope.long, np.float32)), (SHORT, np.array(rope.short, np.float32))]
    return []


def read_rope_keys(
    fields: Fields, tensors: Mapping[str, GgufTensor], width: int, context: int, *, latent: bool = False
) -> Rope:
    """The rotary positions of a file.

    Args:
        fields: metadata, the architecture's name taken off the keys.
        tensors: of the file.
        width, context, latent: see `write_rope_keys`.

    Raises:
        UserError: a kind of stretching that is not known, or numbers that cannot be.
    """
    base = short_decimal(fields.number("rope.freq_base", 10_000.0))
    turned = fields.integer("rope.dimension_count", width)
    if base <= 0 or not 0 < turned <= width or turned % 2:
        raise UserError(
            f"{fields.where} turns {turned} of {width} numbers of a head with the base {base:g}, which cannot be; "
            "fetch or export the model again"
        )
    share = turned / width
    if int(width * share) < turned:  # a quotient may be rounded down
        share = math.nextafter(share, 2)
    factor = short_decimal(fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 0.0))) or 1.0
    kind = fields.text("rope.scaling.type", "linear")
    if FREQUENCIES in tensors or LONG in tensors or SHORT in tensors:
        if factor != 1:
            raise UserError(f"{fields.where} stretches its positions twice, which Cadran does not know; pick another")
        if FREQUENCIES in tensors:
            return _from_divisors(_divisors(fields, tensors, FREQUENCIES, turned), base, share, turned, context)
        return _longrope(fields, tensors, base, share, turned, context)
    if kind == "none" or (kind == "linear" and factor == 1):
        return Rope(base, share=share)
    if kind == "linear":
        return Rope(base, "linear", share, factor)
    if kind == "yarn":
        return _yarn(fields, base, share, factor, context, latent)
    if kind == "longrope":
        raise UserError(f"{fields.where} lacks the tensor {LONG} that its metadata ask for; fetch or export it again")
    raise UserError(
        f"{fields.where} stretches its positions by {kind[:60]!r} and Cadran knows none, linear, yarn and longrope; "
        "pick another"
    )


def short_decimal(value: float) -> float:
    """The shortest decimal that float32 rounds to this number: 1e-05 for what float32 made of 1e-05."""
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def _yarn(fields: Fields, base: float, share: float, factor: float, context: int, latent: bool) -> Rope:
    original = fields.integer("rope.scaling.original_context_length", context)
    fast = short_decimal(fields.number("rope.scaling.yarn_beta_fast", 32.0))
    slow = short_decimal(fields.number("rope.scaling.yarn_beta_slow", 1.0))
    if factor <= 0 or original <= 0:
        raise UserError(f"{fields.where} stretches its positions {factor:g}-fold; fetch or export the model again")
    strength = short_decimal(fields.number("rope.scaling.yarn_log_multiplier", 0.0))
    if latent:
        # Without the multiplier llama.cpp sharpens nothing here.
        plain = None if strength else 1.0
        mscale = short_decimal(strength * 10)
        return Rope(
            base, "yarn", share, factor, original, fast=fast, slow=slow, magnitude=plain,
            mscale=mscale, mscale_all=mscale,
        )  # fmt: skip
    sharper = fields.number("rope.scaling.attn_factor", 1.0)
    told = fields.optional("rope.scaling.yarn_attn_factor")
    if told is None and sharper != 1:
        told = short_decimal(float(np.float32(sharper * yarn_magnitude(factor))))
    return Rope(base, "yarn", share, factor, original, fast=fast, slow=slow, magnitude=told)


def _longrope(
    fields: Fields, tensors: Mapping[str, GgufTensor], base: float, share: float, turned: int, context: int
) -> Rope:
    original = fields.integer("rope.scaling.original_context_length", context)
    if original <= 1:
        raise UserError(f"{fields.where} gives an original context of {original}; fetch or export the model again")
    rope = Rope(
        base, "longrope", share, context / original, original,
        short=_decimals(_divisors(fields, tensors, SHORT, turned)),
        long=_decimals(_divisors(fields, tensors, LONG, turned)),
    )  # fmt: skip
    told = fields.number("rope.scaling.attn_factor", 1.0)
    if math.isclose(told, table_magnitude(rope, context), rel_tol=_CLOSE):
        return rope
    return Rope(
        base, "longrope", share, rope.factor, original, magnitude=short_decimal(told), short=rope.short, long=rope.long
    )


def _divisors(fields: Fields, tensors: Mapping[str, GgufTensor], name: str, turned: int) -> Divisors:
    if name not in tensors or tensors[name].shape != (turned // 2,):
        found = tensors[name].shape if name in tensors else "none"
        raise UserError(
            f"{fields.where} should have the tensor {name} of shape {(turned // 2,)} and has {found}; "
            "fetch or export the model again"
        )
    divisors = tensors[name].dequantised()
    if not (np.isfinite(divisors).all() and (divisors > 0).all()):
        raise UserError(f"{fields.where} has impossible numbers in {name}; fetch or export the model again")
    return divisors


def _from_divisors(divisors: Divisors, base: float, share: float, turned: int, context: int) -> Rope:
    """Llama 3's blend, when its formula gives these divisors; else the divisors themselves, which longrope can say."""
    factor = short_decimal(float(divisors.max()))
    if (divisors == 1).all():
        return Rope(base, share=share)
    for low, high, original in (_LLAMA_3, *_fitted(divisors, factor, base, turned)):
        rope = Rope(base, "llama3", share, factor, original, low, high)
        if np.allclose(_blended(rope, turned, original), divisors, rtol=_CLOSE, atol=0):
            return rope
    same = _decimals(divisors)
    return Rope(base, "longrope", share, 1.0, context, magnitude=1.0, short=same, long=same)


def _fitted(divisors: Divisors, factor: float, base: float, turned: int) -> list[tuple[float, float, int]]:
    """Low, high and original context through the first and the last blended pair; only their ratios can be known."""
    waves = _frequencies(base, turned).astype(np.float64) / (2 * math.pi)  # per position
    blended = np.flatnonzero((divisors > 1 + _CLOSE) & (divisors < factor * (1 - _CLOSE)))
    if len(blended) < 2 or factor <= 1:
        return []
    first, last = int(blended[0]), int(blended[-1])
    kept = (1 / divisors.astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    with np.errstate(all="ignore"):
        slope = float((kept[first] - kept[last]) / (waves[first] - waves[last]))
    if not 0 < slope < math.inf:
        return []
    low, high = float(waves[first] - kept[first] / slope), float(waves[first] + (1 - kept[first]) / slope)
    if not 1 / (1 << 31) < low < high or round(1 / low) < 1 or round(high / low, 3) <= 1:
        return []
    return [(1.0, round(high / low, 3), round(1 / low))]


def _blended(rope: Rope, turned: int, context: int) -> Divisors:
    """What Llama 3.1 divides each frequency by: long waves by the factor, short ones by one, those between blended."""
    original = rope.original or context
    with np.errstate(all="ignore"):  # outside of the blend a quotient is not taken; a damaged file may have any base
        wavelength = np.float32(2 * math.pi) / _frequencies(rope.base, turned)
        kept = (original / wavelength - rope.low) / (rope.high - rope.low)
        between = 1 / ((1 - kept) / rope.factor + kept)
        ends = np.where(wavelength > original / rope.low, rope.factor, between)
        return np.where(wavelength < original / rope.high, 1.0, ends).astype(np.float32)


def _frequencies(base: float, turned: int) -> Divisors:
    with np.errstate(all="ignore"):
        exponent = np.arange(0, turned, 2, dtype=np.float32) / np.float32(turned)
        return (1 / np.float32(base) ** exponent).astype(np.float32)


def _decimals(numbers: Divisors) -> tuple[float, ...]:
    return tuple(short_decimal(float(number)) for number in numbers)
