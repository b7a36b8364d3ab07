"""Repacking a LoRA adapter for the compiled core, once, as ``pack`` does it for a model.

Its factors stay in float32; the scale is multiplied into the second one. Reading an adapter needs PyTorch and the model
it is for, against which every name and size is checked; that happens in a process of its own unless PyTorch is loaded.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import platformdirs

from cadran.engine.native.layout import VERSION, Kind, pack_floats
from cadran.engine.native.library import Unavailable
from cadran.engine.native.pack import MATRICES, answer, apart, drop_older, refusal
from cadran.engine.native.packed_file import Packed, PackedWriter
from cadran.errors import UserError
from cadran.model.weight_files import weight_files

if TYPE_CHECKING:
    from cadran.model.lora_linear import LowRank
    from cadran.model.transformer import Transformer

FILES = ("adapter_config.json", "adapter_model.safetensors")
DOWN_FACTOR, UP_FACTOR, FIRST_MATRIX = 256, 512, 16
"""Of native/cadran.h."""


def ensure_packed_adapter(model: Path, adapter: Path) -> Path:
    """The repacked factors of an adapter, made now when they are not there.

    Args:
        model: a model directory or a ``.gguf`` file, which the adapter was trained on.
        adapter: folder in PEFT's format.

    Raises:
        Unavailable: it is more than low-rank maps upon the layers' matrices.
        UserError: it is no adapter, it is damaged, or it is another model's.
    """
    path = _packed_path(model, adapter)
    if path.exists():
        return path
    if "torch" in sys.modules:
        pack_adapter(model, adapter, path)
    else:
        apart("cadran.engine.native.adapter", model, adapter, path)
    drop_older(path)
    return path


def _packed_path(model: Path, adapter: Path) -> Path:
    seen = hashlib.sha256(f"{VERSION}".encode())
    files = [model] if model.is_file() else [model / "config.json", *weight_files(model)]
    for file in [*files, *(adapter / name for name in FILES)]:
        try:
            about = file.stat()
        except OSError as error:
            raise UserError(f"{adapter} holds no adapter ({error}); give a folder with {FILES[0]} in it") from error
        seen.update(f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    where = hashlib.sha256(f"{model.resolve()}\0{adapter.resolve()}".encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("cadran")) / "packed" / f"{where}-{seen.hexdigest()[:16]}.bin"


def pack_adapter(model: Path, adapter: Path, path: Path) -> None:
    """Repack an adapter.

    Args:
        model: that it was trained on.
        adapter: folder in PEFT's format.
        path: of the file to write, replaced whole or not at all.

    Raises:
        Unavailable: it is more than low-rank maps upon the layers' matrices.
        UserError: it is no adapter, it is damaged, or it is another model's.
    """
    from cadran.model.checkpoint import load_model
    from cadran.model.lora_files import load_adapter

    transformer = load_model(model)
    if why := refusal(transformer.config):
        raise Unavailable(why)
    name = load_adapter(transformer, adapter)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(transformer, name, file).finish({})
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def pack_active(model: "Transformer", name: str) -> tuple[Packed, bytes]:
    """Repack an adapter of a model that is being trained, in memory; see ``NativeRunner.add_adapter``.

    Raises:
        Unavailable: it is more than low-rank maps upon the layers' matrices.
    """
    file = BytesIO()
    writer = _write(model, name, file)
    return Packed({}, np.array(writer.tensors, np.int64).reshape(-1, 7)), file.getvalue()


def _write(model: "Transformer", name: str, file: BinaryIO) -> PackedWriter:
    writer = PackedWriter(file)
    for role, layer, low in _maps(model, name):
        down, up = low.lora_A.detach().float(), (low.lora_B.detach() * low.scale).float()
        for factor, matrix in ((DOWN_FACTOR, down), (UP_FACTOR, up)):
            rows, columns = matrix.shape
            data = pack_floats(matrix.cpu().contiguous().numpy(), Kind.F32)
            writer.add(role + factor, layer, Kind.F32, rows, columns, data)
    return writer


def _maps(model: "Transformer", name: str) -> "Iterator[tuple[int, int, LowRank]]":
    """Role, layer and factors of every map of an adapter.

    Raises:
        Unavailable: a part of it is something else.
    """
    from cadran.model.lora_linear import Adapted, LowRank

    for path, module in model.named_modules():
        if not isinstance(module, Adapted) or name not in module.adapters:
            continue
        low = module.adapters[name]
        parts = path.split(".")
        which = ".".join(parts[-2:])
        if not isinstance(low, LowRank) or which not in MATRICES:
            raise Unavailable(f"an adapter that changes {path} runs on PyTorch")
        if low.magnitude is not None:
            raise Unavailable("a DoRA adapter runs on PyTorch; merge it, or train it without --dora")
        yield FIRST_MATRIX + MATRICES.index(which), int(parts[-3]), low


if __name__ == "__main__":
    answer(pack_adapter)
