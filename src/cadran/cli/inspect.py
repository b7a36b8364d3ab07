"""``cadran inspect``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cadran.library.inspection import Inspection


def inspect(
    model: Annotated[str, typer.Argument(help="A pulled model, a run or a stage of one, a folder, a .gguf file.")],
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Show what a model is made of and what a token costs. Reads headers only, never weights."""
    import json

    from cadran.library.inspection import inspect_model
    from cadran.recipe.run import find_model

    found = inspect_model(find_model(model))
    # Plain lines, in one piece: hundreds of tensors are then printed at once.
    print(json.dumps({"model": model} | found.to_json()) if as_json else "\n".join(_lines(model, found)))


def _lines(model: str, found: "Inspection") -> "Iterator[str]":
    from cadran.cli.readable import bytes_of, count_of

    header = found.header
    active = found.active if found.active not in (None, header.parameters) else None
    yield (
        f"{model}: {header.architecture}, {count_of(header.parameters)} parameters"
        + (f" ({count_of(active)} active)" if active is not None else "")
        + f", {bytes_of(header.bytes)} of {header.kind} in {header.format}"
    )
    if header.unknown:
        yield f"what a token costs is not known: {header.unknown}"
    if header.sizes is not None:
        sizes = header.sizes
        heads = f"{sizes.heads} heads of {sizes.head_width}" + (
            f" (keys and values {sizes.kv_heads})" if sizes.kv_heads != sizes.heads else ""
        )
        widths = f"width {sizes.width}, {heads}, hidden {sizes.hidden}"
        yield f"layers {sizes.layers}, {widths}, vocabulary {sizes.vocabulary:,}"
    yield f"context {header.context or 'unknown'}, licence {header.licence or 'unknown'}"
    tokenizer = header.tokenizer
    can = ", ".join(tokenizer.capabilities) or "continues text (no chat template)"
    yield f"tokenizer {tokenizer.kind or 'none'}; {can}"
    if (cost := found.cost) is not None:
        yield (
            f"KV cache: {bytes_of(cost.kv_bytes(16))} a token in 16 bits, {bytes_of(cost.kv_bytes(32))} in 32; "
            f"full context {bytes_of(2 * cost.kv_numbers_full)} in 16 bits"
        )
        yield (
            f"computation: {count_of(cost.flops)}FLOP a token, and {count_of(cost.flops_per_position)}FLOP for each "
            f"position before it; {count_of(cost.flops_full)}FLOP at the end of the context"
        )
    yield ""
    yield f"{'part':<12}{'parameters':>16}{'share':>8}{'bytes':>16}"
    for name, part in found.parts.items():
        yield f"{name:<12}{part.parameters:>16,}{part.parameters / max(1, header.parameters):>8.1%}{part.bytes:>16,}"
    yield ""
    width = max((len(_shown(tensor.name)) for tensor in header.tensors), default=0)
    for tensor in header.tensors:
        shape = " x ".join(map(str, tensor.shape)) or "1"
        yield f"{_shown(tensor.name):<{width}}  {tensor.kind:<6} {shape:<20} {tensor.bytes:>14,} bytes"


def _shown(name: str) -> str:
    """A name from a file, without what would move the terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:120])
