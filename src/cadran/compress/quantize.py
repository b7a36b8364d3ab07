"""``cadran quantize``: a model on disk to a GGUF file of 8 or 4 bits, and what was lost, measured on the file."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cadran.compress.blocks import Kind, Quantised
from cadran.compress.fidelity import Fidelity, compare
from cadran.compress.layers import Method, Progress, quantise_layers, silent
from cadran.compress.texts import (
    Texts,
    calibration_windows,
    open_tokenizer,
    own_texts,
    read_texts,
    split_texts,
    thinned,
    tokens_of,
)
from cadran.errors import UserError
from cadran.library.export import export_gguf_file, refuse_file
from cadran.library.header import ModelHeader, read_header
from cadran.model.families import family_of
from cadran.model.families.family import Family
from cadran.model.gguf.architectures import architecture_of
from cadran.model.gguf.encoded import Encoded

if TYPE_CHECKING:
    from torch import Tensor

    from cadran.model.transformer import Transformer

KEPT = r"self_attn\.(v|o)_proj\."
"""Stays at 8 bits in a model of 4: a tenth of the weights, and the half of the loss (LAB.md)."""
WINDOWS, LENGTH = 64, 512
"""Calibration: windows, and tokens of each where the context allows."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Choices:
    """What to make.

    Attributes:
        bits: of the matrices, 8 or 4.
        four: the kind of 4-bit blocks.
        method: None takes what measured best (benchmarks/quantize.py): ``round`` without a text, ``awq+gptq`` for a
            model all of 4 bits, else ``gptq``.
        kept: regular expression of the names of parameters that stay at 8 bits.
        calibrate: text to learn from, or None.
        text: text to judge by, or None for the last part of ``calibrate``, else of what the model has.
        windows: of calibration, at most.
        most: tokens to judge by, about.
    """

    bits: Literal[8, 4]
    four: Kind = "Q4_0"
    method: Method | None = None
    kept: str = KEPT
    calibrate: Path | None = None
    text: Path | None = None
    windows: int = WINDOWS
    most: int = 16_384


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        file: that was written.
        kind: of its matrices; embedding and head are Q8_0.
        method: how levels and scales were chosen.
        bytes_before, bytes_after: of all tensors.
        bits_before, bits_after: for each weight, all tensors counted.
        calibration: where the text learnt from is from, None when there was none.
        calibration_tokens: read of it.
        text: where the text judged by is from.
        fidelity: the file's weights beside the original's.
    """

    file: Path
    kind: Kind
    method: Method
    bytes_before: int
    bytes_after: int
    bits_before: float
    bits_after: float
    calibration: str | None
    calibration_tokens: int
    text: str
    fidelity: Fidelity

    def to_json(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self) | {
            "file": str(self.file),
            "fidelity": asdict(self.fidelity) | {"change": self.fidelity.change},
        }


def quantize(
    path: Path, output: Path, choices: Choices, *, name: str, force: bool = False, progress: Progress = silent
) -> Report:
    """Quantise a model on disk.

    Args:
        path: of a model directory or GGUF file that is not quantised.
        output: the GGUF file; its folder must exist.
        choices: what to make.
        name: for ``general.name``.
        force: replace a file that is there.
        progress: told what is being done.

    Returns:
        What came of it; the file is written.

    Raises:
        UserError: the model is quantised already, cannot be read or not be written as GGUF, a text is missing or too
            short, or the file is there already.
    """
    from cadran.model.checkpoint import load_model

    header = read_header(path)
    refuse_file(path, output, force)
    method = _checked(header, choices)
    tokenizer = open_tokenizer(path)
    learnt, judged = _texts(path, choices)
    context = header.sizes.context if header.sizes is not None else LENGTH
    length = min(LENGTH, context)
    windows = None
    if learnt is not None:
        enough = thinned(learnt, choices.windows * length)
        windows = calibration_windows(tokens_of(tokenizer, enough), learnt.source, choices.windows, length)
    documents = tokens_of(tokenizer, thinned(judged, choices.most))
    model = _loaded(path, load_model)
    family = family_of(header.config)
    quantised = quantise_layers(model, _kinds(family, model, choices), windows, method, progress)
    encoded = checkpoint_blocks(model, family, quantised)
    progress("writing", 0, 1)
    export_gguf_file(
        path, output, "q8_0", name=name, force=force, weights=CheckpointWeights(model, family), encoded=encoded
    )
    del model, quantised, encoded
    fidelity = compare(
        _loaded(path, load_model), load_model(output), documents, length, tokenizer.vocabulary_size, choices.most,
        progress,
    )  # fmt: skip
    written = read_header(output)
    return Report(
        file=output,
        kind=_kind(choices),
        method=method,
        bytes_before=header.bytes,
        bytes_after=written.bytes,
        bits_before=8 * header.bytes / header.parameters,
        bits_after=8 * written.bytes / written.parameters,
        calibration=None if learnt is None else learnt.source,
        calibration_tokens=0 if windows is None else windows.numel(),
        text=judged.source,
        fidelity=fidelity,
    )


def checkpoint_blocks(model: "Transformer", family: Family, quantised: Mapping[str, Quantised]) -> dict[str, Encoded]:
    """Quantised maps as blocks, under the names of the family's checkpoints and as they lie there.

    Args:
        model: that the maps are of.
        family: of the model.
        quantised: by parameter name.
    """
    blocks = {}
    for entry in family.stored(dict(model.named_parameters())):
        if all(ours in quantised for ours in entry.ours):
            parts = [quantised[ours].encoded() for ours in entry.ours]
            rows = np.concatenate([part.rows for part in parts])
            # What a checkpoint turns, the file turns back: these bytes go the same way.
            blocks[entry.name] = Encoded(parts[0].kind, np.ascontiguousarray(rows.T) if entry.transposed else rows)
    return blocks


class CheckpointWeights(Mapping[str, "Tensor"]):
    """A model in memory under the names of its family's checkpoints; a tensor is put together when it is asked for."""

    def __init__(self, model: "Transformer", family: Family) -> None:
        self._parameters = dict(model.named_parameters())
        self._stored = {entry.name: entry for entry in family.stored(self._parameters)}

    def __getitem__(self, name: str) -> "Tensor":
        import torch

        entry = self._stored[name]
        tensor = torch.cat([self._parameters[ours].detach() for ours in entry.ours])
        return (tensor.t() if entry.transposed and tensor.ndim == 2 else tensor).contiguous()

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _checked(header: ModelHeader, choices: Choices) -> Method:
    """Stop before work is done that must fail; the method that is meant."""
    if header.sizes is None:
        raise UserError(f"{header.path} cannot be quantised: {header.unknown}")
    if stored := sorted({tensor.kind for tensor in header.tensors} - _FLOATS):
        raise UserError(
            f"{header.path} is quantised already ({', '.join(stored)}), and doing it twice only loses more; give the "
            "original"
        )
    architecture_of(header.sizes.family).refuse_beyond_limits(header.sizes)
    if choices.method not in (None, "round") and choices.calibrate is None:
        raise UserError(f"the method {choices.method} learns from a text; name one with --calibrate")
    if choices.bits == 8 and choices.method is not None and "awq" in choices.method:
        raise UserError("scaling channels brings nothing at 8 bits; take --method gptq, or leave it out")
    if choices.method is not None or choices.calibrate is None:
        return choices.method or "round"
    # What scaling channels brings to a model of 4 bits, it brings to attention's outputs: nothing is left once they
    # keep 8 (SmolLM2: divergence 0.119 to 0.069 without, 0.047 to 0.055 with).
    return "awq+gptq" if choices.bits == 4 and not choices.kept else "gptq"


def _texts(path: Path, choices: Choices) -> tuple[Texts | None, Texts]:
    """What to learn from and what to judge by."""
    learnt = None if choices.calibrate is None else read_texts(choices.calibrate)
    if choices.text is not None:
        if choices.calibrate is not None and choices.text.resolve() == choices.calibrate.resolve():
            raise UserError(
                "a model must not be judged by the text it learnt from; leave --text out to hold a part out"
            )
        return learnt, read_texts(choices.text)
    if learnt is not None:
        return split_texts(learnt)
    return None, own_texts(path)


def _loaded(path: Path, load_model: Callable[..., "Transformer"]) -> "Transformer":
    import torch

    return load_model(path, torch.float32)


def _kind(choices: Choices) -> Kind:
    return "Q8_0" if choices.bits == 8 else choices.four


def _kinds(family: Family, model: "Transformer", choices: Choices) -> Callable[[str], Kind]:
    """The kind of each map; those that a checkpoint stores as one tensor have one kind."""
    four, kept = _kind(choices), re.compile(choices.kept or r"(?!)")
    eight = {
        ours
        for entry in family.stored(dict(model.named_parameters()))
        if any(kept.search(ours) for ours in entry.ours)
        for ours in entry.ours
    }
    return lambda name: "Q8_0" if f"{name}.weight" in eight else four
