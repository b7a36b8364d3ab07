"""The weights of a model that is being trained, laid out for the compiled core again and again without a model file.

The copy lives in memory that only this process can name, so nothing is left behind however the process ends. After the
first time only what may have changed is laid out again. The arithmetic of ``layout`` is done here by PyTorch, in all
threads: the bytes are the same (tested), the time is a fifth of NumPy's.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from cadran.engine.native.layout import GROUP, ROWS, Kind
from cadran.engine.native.library import Unavailable
from cadran.engine.native.pack import _frequencies, _places, refusal, shape_of
from cadran.engine.native.packed_file import Packed, PackedWriter, read_packed
from cadran.model.config import ModelConfig
from cadran.model.lora_linear import Adapted
from cadran.model.transformer import Transformer

_HIGH_BIT = 128
_LINE = 4 * ROWS + 2 * GROUP * ROWS
"""Bytes of two groups of sixteen rows: their scales in float16, their numbers."""
_AT_ONCE = 1 << 17
"""Numbers that are rounded at once: what lies between the steps then stays in the cache."""


class Repacked:
    """A packed copy of a model.

    Args:
        model: in floating point.
        kind: of the matrices, ``Kind.F32`` or ``Kind.I8`` (Q8_0, rounded to nearest).
        merged: whether adapters upon the model are merged in the copy; else it is of the base alone.

    Raises:
        Unavailable: the core does not run this architecture.
    """

    def __init__(self, model: Transformer, kind: Kind, *, merged: bool = True) -> None:
        if why := refusal(model.config):
            raise Unavailable(why)
        if kind not in (Kind.F32, Kind.I8):
            raise ValueError(f"weights are repacked as F32 or I8, not {kind.name}")
        self._model, self._kind, self._merged = model, kind, merged
        self._file: BinaryIO | None = None
        self._packed: Packed | None = None
        self._entries: list[tuple[str, int, int]] = []
        self._versions: dict[str, tuple[int, ...]] = {}

    def refresh(self) -> tuple[Packed, Path]:
        """Bring the copy up to date.

        Returns:
            What it holds, and a path that opens it, good until the next call or ``close``.

        Raises:
            UserError: a matrix under an adapter is quantised.
        """
        if self._file is None or self._packed is None:
            return self._write_all()
        for (name, role, _), entry in zip(self._entries, self._packed.tensors.tolist(), strict=False):
            version = self._version(name)
            if version is not None and version == self._versions[name]:
                continue
            self._file.seek(entry[5])
            self._file.write(self._bytes(name, role)[3])
            self._versions[name] = version or ()
        self._file.flush()
        return self._packed, _path_of(self._file)

    @property
    def state(self) -> list[tuple[int, ...] | None]:
        """Equal while the tensors that were copied are surely what they were."""
        return [self._version(name) for name, _, _ in self._entries]

    def close(self) -> None:
        """Give the memory back; ``refresh`` would make the copy anew."""
        if self._file is not None:
            self._file.close()
        self._file = self._packed = None

    def _write_all(self) -> tuple[Packed, Path]:
        config = self._config()
        with torch.device("meta"):
            names = dict(Transformer(config).named_parameters()).keys()
        self._entries = list(_places(config, names))
        self._file = _nameless_file()
        writer = PackedWriter(self._file)
        for name, role, layer in self._entries:
            kind, rows, columns, data = self._bytes(name, role)
            writer.add(role, layer, kind, rows, columns, data)
            self._versions[name] = self._version(name) or ()
        for role, frequencies in _frequencies(config):
            writer.add(role, 0, Kind.F32, 1, len(frequencies), frequencies.tobytes())
        writer.finish(shape_of(config))
        self._file.flush()
        path = _path_of(self._file)
        self._packed = read_packed(path)
        if self._packed is None:
            raise RuntimeError("the repacked weights cannot be read back")
        return self._packed, path

    def _config(self) -> ModelConfig:
        """The model's, untied where an adapter has put another head or embedding in place."""
        config, model = self._model.config, self._model
        apart = isinstance(model.lm_head, Adapted) or isinstance(model.model.embed_tokens, Adapted)
        return replace(config, tied=False) if config.tied and apart else config

    def _version(self, name: str) -> tuple[int, ...] | None:
        """Equal while a tensor is surely what it was; None where only laying it out again can tell."""
        owner, leaf = self._owner(name)
        if isinstance(owner, Adapted):  # merged: with factors that are trained
            return None
        if leaf == "weight" and hasattr(owner, "unfolded"):
            return tuple(number for part in owner.buffers() for number in (part.data_ptr(), part._version))
        tensor = cast(Tensor, getattr(owner, leaf))
        return None if tensor.requires_grad else (tensor.data_ptr(), tensor._version)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        owner = self._model.get_submodule(path)
        return (owner.base if isinstance(owner, Adapted) and not self._merged else owner), leaf

    @torch.no_grad()
    def _bytes(self, name: str, role: int) -> tuple[Kind, int, int, bytes]:
        """Kind, rows, columns and layout of a tensor as it acts now."""
        owner, leaf = self._owner(name)
        if isinstance(owner, Adapted) and leaf == "bias":
            owner = owner.base
        # A frozen map in few bits is written as the matrix that it stands for.
        unfold: Any = getattr(owner, "unfolded", None) if leaf == "weight" else None
        tensor = cast(Tensor, unfold() if unfold else getattr(owner, leaf)).detach().to("cpu", torch.float32)
        if tensor.ndim == 1 or name == "model.embed_positions.weight":
            if self._model.config.norm_offset and "norm.weight" in name:
                tensor = tensor + self._model.config.norm_offset
            rows = 1 if tensor.ndim == 1 else len(tensor)
            return Kind.F32, rows, tensor.shape[-1], _raw(tensor)
        rows, columns = tensor.shape
        return self._kind, rows, columns, (pack_f32 if self._kind == Kind.F32 else pack_int8)(tensor)


def pack_f32(weights: Tensor) -> bytes:
    """Lay out a float32 matrix of shape (rows, columns), as ``layout.pack_floats`` does."""
    rows, columns = weights.shape
    filled = torch.nn.functional.pad(weights, (0, 0, 0, -rows % ROWS))
    return _raw(filled.view(-1, ROWS, columns).transpose(1, 2))


def pack_int8(weights: Tensor) -> bytes:
    """Round a finite float32 matrix of shape (rows, columns) to Q8_0 and lay it out.

    The same bytes as ``layout.pack_blocks(layout.quantised(weights), Kind.I8)``: the largest magnitude of 32 columns
    becomes 127 and halves are rounded away from zero.
    """
    rows, columns = weights.shape
    blocks, pairs = -(-rows // ROWS), -(-columns // (2 * GROUP))
    lines = torch.empty((blocks, pairs, _LINE), dtype=torch.uint8)
    step = max(1, _AT_ONCE // (ROWS * columns))
    for first in range(0, blocks, step):
        piece = weights[first * ROWS : (first + step) * ROWS]
        filled = torch.nn.functional.pad(piece, (0, 2 * GROUP * pairs - columns, 0, -len(piece) % ROWS))
        _lay_out_int8(filled, lines[first : first + step])
    return _raw(lines)


def _lay_out_int8(weights: Tensor, lines: Tensor) -> None:
    """Whole blocks of sixteen rows and pairs of groups of 32 columns into their lines, shape (blocks, pairs, bytes)."""
    blocks, pairs, _ = lines.shape
    groups = weights.view(blocks, ROWS, pairs, 2, GROUP)
    scale = groups.abs().amax(-1) / 127  # (blocks, 16, pairs, 2)
    inverse = scale.reciprocal()
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)
    levels = groups * inverse[..., None]
    magnitude = levels.abs()
    whole = magnitude.floor()
    whole += magnitude.sub_(whole) >= 0.5  # not round(): it takes halves to the even neighbour
    numbers = whole.copysign_(levels).to(torch.int8).view(torch.uint8).bitwise_xor_(_HIGH_BIT)
    # Four columns are one word, so that a word and not a byte is what is moved.
    words = numbers.view(torch.int32).view(blocks, ROWS, pairs, -1).permute(0, 2, 3, 1)
    scales = scale.to(torch.float16).permute(0, 2, 3, 1).reshape(blocks, pairs, -1)
    lines[:, :, : 4 * ROWS] = scales.view(torch.uint8)
    lines.view(torch.int32)[:, :, ROWS:].view(blocks, pairs, -1, ROWS).copy_(words)


def _raw(tensor: Tensor) -> bytes:
    array: Any = tensor.contiguous().numpy()
    return array.tobytes()  # type: ignore[no-any-return]


def _nameless_file() -> BinaryIO:
    """A file in memory where the system knows such a thing, else one that vanishes with its handle."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        return os.fdopen(os.memfd_create("cadran-rollouts"), "w+b")
    return cast(BinaryIO, tempfile.NamedTemporaryFile(prefix="cadran-rollouts-"))


def _path_of(file: BinaryIO) -> Path:
    return Path(f"/proc/self/fd/{file.fileno()}") if isinstance(file.name, int) else Path(file.name)
