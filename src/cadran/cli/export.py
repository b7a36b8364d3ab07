"""``cadran export``."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cadran.errors import UserError


class Gguf(StrEnum):
    """Kinds of GGUF file."""

    q8_0 = "q8_0"
    q4_0 = "q4_0"
    f16 = "f16"


class Dtype(StrEnum):
    """Kinds of weights in a directory."""

    auto = "auto"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"


def export(
    model: Annotated[str, typer.Argument(help="A pulled model, a run or a stage of one, a folder, a .gguf file.")],
    gguf: Annotated[Gguf | None, typer.Option(help="Write a GGUF file with matrices of this kind.")] = None,
    hf: Annotated[bool, typer.Option("--hf", help="Write a Hugging Face directory.")] = False,
    dtype: Annotated[
        Dtype, typer.Option(help="Weights of the directory; auto keeps 16 bits and is otherwise f32.")
    ] = Dtype.auto,
    output: Annotated[Path | None, typer.Option(help="File or folder to write; in this folder by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write a model as a file or folder that other programs open."""
    if (gguf is None) == (not hf):
        raise UserError("choose what to write: --gguf q8_0, --gguf q4_0, --gguf f16 or --hf")
    if gguf is not None and dtype is not Dtype.auto:
        raise UserError("--dtype is for --hf; the kind of a GGUF file follows --gguf")

    import warnings

    from cadran.cli.bar import transfer
    from cadran.cli.readable import bytes_of
    from cadran.library.export import export_folder, export_gguf_file, model_label
    from cadran.recipe.run import find_model

    path, name = find_model(model), model_label(model)
    with warnings.catch_warnings(record=True) as said, transfer() as bar:
        warnings.simplefilter("always", UserWarning)
        if gguf is not None:
            target = output or Path(f"{name}-{gguf.value}.gguf")
            export_gguf_file(path, target, gguf.value, name=name, force=force)
            size = target.stat().st_size
        else:
            target = output or Path(f"{name}-hf")
            export_folder(path, target, dtype.value, name=name, force=force, progress=bar.progress)
            size = sum(file.stat().st_size for file in target.iterdir())
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    print(f"{target} is written: {bytes_of(size)}")
