"""``cadran inspect``: what a model is made of and what a token costs, from its headers alone.

Counts of operations follow the usual convention: a multiplication and an addition are two, norms and activations are
left out. Source: Kaplan et al. 2020, section 2.1.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cadran.library.header import ModelHeader, TensorHeader, read_header
from cadran.library.parts import PARTS, part_of
from cadran.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class PartCount:
    """A part of the model: parameters and bytes in the files."""

    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What one token costs while it is processed (inference, no batching).

    Attributes:
        kv_numbers: numbers that the cache keeps of it.
        kv_numbers_full: numbers in the cache when the context is full; windows count with their width.
        flops: floating-point operations of the matrices.
        flops_per_position: further ones for each position that it attends to, when no layer has a window.
        flops_full: all of them for the last token of a full context, windows considered.
    """

    kv_numbers: int
    kv_numbers_full: int
    flops: int
    flops_per_position: int
    flops_full: int

    def kv_bytes(self, bits: int) -> int:
        """Bytes of cache for a token, with numbers of that many bits."""
        return self.kv_numbers * bits // 8


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model seen from outside.

    Attributes:
        header: its files.
        parts: by name; only those that it has.
        active: parameters that one token passes through; None when the architecture is not known here.
        cost: None when the architecture is not known here.
    """

    header: ModelHeader
    parts: dict[str, PartCount]
    active: int | None
    cost: TokenCost | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        header, cost = self.header, self.cost
        return {
            "format": header.format,
            "architecture": header.architecture,
            "parameters": header.parameters,
            "active_parameters": self.active,
            "bytes": header.bytes,
            "kind": header.kind,
            "context": header.context,
            "licence": header.licence,
            "parts": {name: asdict(count) for name, count in self.parts.items()},
            "kv_cache": cost
            and {
                "numbers_per_token": cost.kv_numbers,
                "bytes_per_token": {"float32": cost.kv_bytes(32), "float16": cost.kv_bytes(16)},
                "numbers_of_full_context": cost.kv_numbers_full,
            },
            "flops": cost
            and {
                "per_token": cost.flops,
                "per_token_and_position": cost.flops_per_position,
                "last_token_of_full_context": cost.flops_full,
            },
            "tokenizer": asdict(header.tokenizer),
            "sizes": header.sizes and asdict(header.sizes),
            "unknown": header.unknown,
            "config": header.config,
            "tensors": [asdict(tensor) for tensor in header.tensors],
        }


def inspect_model(path: Path) -> Inspection:
    """Look into a model directory or a GGUF file.

    Raises:
        UserError: it is no model, or a file is damaged.
    """
    header = read_header(path)
    grouped: dict[str, list[TensorHeader]] = {part: [] for part in PARTS}
    for tensor in header.tensors:
        grouped[part_of(tensor.name)].append(tensor)
    parts = {
        part: PartCount(sum(tensor.parameters for tensor in tensors), sum(tensor.bytes for tensor in tensors))
        for part, tensors in grouped.items()
        if tensors
    }
    sizes = header.sizes
    if sizes is None:
        return Inspection(header, parts, None, None)
    idle = _of_the_idle(sizes, parts["experts"].parameters if "experts" in parts else 0)
    return Inspection(header, parts, header.parameters - idle, _cost(sizes, grouped))


def _of_the_idle(sizes: ModelConfig, parameters: int) -> int:
    """How many of the experts' parameters, or operations, a token does not touch."""
    if sizes.experts is None or not sizes.experts.count:
        return 0
    return parameters - parameters * min(sizes.experts.active, sizes.experts.count) // sizes.experts.count


def _cost(sizes: ModelConfig, grouped: dict[str, list[TensorHeader]]) -> TokenCost:
    heads, first, second = sizes.cache_shape
    numbers = heads * (first + second)
    if sizes.latent is not None:
        attended = 2 * sizes.heads * (sizes.latent.plain + sizes.latent.rotary + sizes.latent.value)
    else:
        attended = 4 * sizes.heads * sizes.head_width
    windowed = sum(sizes.windowed)
    seen = sizes.context * (sizes.layers - windowed) + windowed * min(sizes.window or 0, sizes.context)

    def matrices(part: str) -> int:
        return sum(tensor.parameters for tensor in grouped[part] if len(tensor.shape) > 1)

    experts = matrices("experts")
    # A tied head multiplies by the embedding, which looking up does not.
    head = matrices("head") or sizes.vocabulary * sizes.width
    blocks = sum(matrices(part) for part in ("attention", "mlp", "router")) + experts - _of_the_idle(sizes, experts)
    flops = 2 * (blocks + head)
    return TokenCost(
        kv_numbers=sizes.layers * numbers,
        kv_numbers_full=seen * numbers,
        flops=flops,
        flops_per_position=sizes.layers * attended,
        flops_full=flops + seen * attended,
    )
