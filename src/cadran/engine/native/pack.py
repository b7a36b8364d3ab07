"""Repacking a model for the compiled core, once: the result is cached and read in a fraction of a second ever after.

Reading a model of any family needs PyTorch; it happens in a process of its own, so that the one that serves never
loads it and keeps no memory of it.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from cadran.engine.native.layout import GGUF_KINDS, VERSION, Kind, pack_blocks, pack_floats, quantised
from cadran.engine.native.library import Unavailable
from cadran.engine.native.packed_file import PackedWriter
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.weight_files import weight_files

_ROLES = {"model.embed_tokens.weight": 0, "model.embed_positions.weight": 1, "lm_head.weight": 2,
          "model.norm.weight": 3, "model.norm.bias": 4}  # fmt: skip
_FREQUENCIES, _LOCAL_FREQUENCIES = 5, 6
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}
_MOST_HEAD_WIDTH = 512


def packed_path(model: Path) -> Path:
    """Where the repacked weights of a model lie, or would.

    Raises:
        UserError: the folder has no weights.
    """
    files = [model] if model.is_file() else [model / "config.json", *weight_files(model)]
    seen = hashlib.sha256(f"{VERSION}".encode())
    for file in files:
        about = file.stat()
        seen.update(f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    where = hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("cadran")) / "packed" / f"{where}-{seen.hexdigest()[:16]}.bin"


def ensure_packed(model: Path) -> Path:
    """The repacked weights of a model, made now when they are not there.

    Args:
        model: a model directory or a ``.gguf`` file.

    Raises:
        Unavailable: its architecture is not one that the core runs.
        UserError: it is no model, or it is damaged.
    """
    path = packed_path(model)
    if path.exists():
        return path
    if "torch" in sys.modules:
        pack(model, path)
    else:
        apart("cadran.engine.native.pack", model, path)
    drop_older(path)
    return path


def apart(module: str, *arguments: Path) -> None:
    """Pack in a process of its own, which may load PyTorch; ``answer`` is its other end.

    Raises:
        Unavailable: as the work does.
        UserError: likewise.
    """
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True)
    said = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 3:
        raise Unavailable(said)
    if done.returncode == 2:
        raise UserError(said)
    if done.returncode:
        raise RuntimeError(f"repacking failed with status {done.returncode}: {done.stderr[-2000:]}")


def answer(work: Callable[..., None]) -> None:
    """Do work with the paths of the command line; statuses 2 and 3 are the two kinds of refusal."""
    try:
        work(*map(Path, sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(3)


def drop_older(path: Path) -> None:
    """Remove what was repacked of the same model before it was changed."""
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*"):
        if not old.name.startswith(path.stem):
            old.unlink(missing_ok=True)


def refusal(config: ModelConfig) -> str | None:
    """Why the core does not run an architecture, or None."""
    if config.latent is not None:
        return "latent attention runs on PyTorch"
    if config.experts is not None:
        return "mixtures of experts run on PyTorch"
    for rope in (config.rope, config.local_rope):
        if rope is not None and rope.kind in ("dynamic", "longrope"):
            return f"{rope.kind} positions depend on the length of the text and run on PyTorch"
    if config.head_width > _MOST_HEAD_WIDTH:
        return f"heads wider than {_MOST_HEAD_WIDTH} run on PyTorch"
    return None


def pack(model: Path, path: Path) -> None:
    """Repack a model.

    Args:
        model: a model directory or a ``.gguf`` file.
        path: of the file to write, replaced whole or not at all.

    Raises:
        Unavailable: its architecture is not one that the core runs.
        UserError: it is no model, or it is damaged.
    """
    from cadran.model.checkpoint import load_model

    transformer = load_model(model)
    config = transformer.config
    if why := refusal(config):
        raise Unavailable(why)
    rows = {name: len(parameter) for name, parameter in transformer.named_parameters()}
    stored = _stored_matrices(model, config, rows) if model.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            writer = PackedWriter(file)
            parameters = dict(transformer.named_parameters())
            for ours, role, layer in _places(config, parameters.keys()):
                _add(writer, role, layer, parameters[ours].detach(), ours, config, stored.get(ours))
            for role, frequencies in _frequencies(config):
                writer.add(role, 0, Kind.F32, 1, len(frequencies), frequencies.tobytes())
            writer.finish(shape_of(config))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def shape_of(config: ModelConfig) -> dict[str, Any]:
    """The fields of ``cadran_shape``."""
    from cadran.model.rope_magnitude import table_magnitude

    rope, local = config.rope, config.local_rope or config.rope
    return {
        "vocabulary": config.vocabulary,
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_width": config.head_width,
        "hidden": config.hidden,
        "context": config.context,
        "activation": _ACTIVATIONS[config.activation],
        "layer_norm": int(config.norm == "layer"),
        "qk_norm": {None: 0, "head": 1, "all": 2}[config.qk_norm],
        "rotary": 0 if rope is None else int(config.head_width * rope.share),
        "window": config.window or 0,
        "tied": int(config.tied),
        "epsilon": config.norm_epsilon,
        "attention_scale": config.attention_scale or config.head_width**-0.5,
        "attention_cap": config.attention_cap or 0.0,
        "logit_cap": config.logit_cap or 0.0,
        "embedding_scale": config.embedding_scale,
        "rope_magnitude": 1.0 if rope is None else table_magnitude(rope, config.context),
        "local_rope_magnitude": 1.0 if local is None else table_magnitude(local, config.context),
        "windowed": [int(flag) for flag in config.windowed],
    }


def _places(config: ModelConfig, names: Any) -> Iterator[tuple[str, int, int]]:
    """Name, role and layer of every parameter, in the order in which a pass reads them."""
    roles = {f"{name}.weight": 16 + i for i, name in enumerate(MATRICES)}
    roles |= {f"{name}.bias": 23 + i for i, name in enumerate(MATRICES)}
    roles |= {"self_attn.q_norm.weight": 30, "self_attn.k_norm.weight": 31}
    before, after = config.norm_order != "post", config.norm_order != "pre"
    norms = {"input_layernorm": 32, "post_feedforward_layernorm": 38}
    # Under this name stands the norm before the MLP where there are only norms before, else the one after attention.
    norms["post_attention_layernorm"] = 34 if after else 36
    if before and after:
        norms["pre_feedforward_layernorm"] = 36
    roles |= {
        f"{name}.{part}": role + bias for name, role in norms.items() for bias, part in enumerate(("weight", "bias"))
    }
    outside = [name for name in _ROLES if name in names]
    for name in outside:
        if name != "lm_head.weight":
            if name == "model.embed_tokens.weight" and config.tied:
                continue
            yield name, _ROLES[name], 0
    for layer in range(config.layers):
        for inner, role in sorted(roles.items(), key=lambda item: item[1]):
            if (name := f"model.layers.{layer}.{inner}") in names:
                yield name, role, layer
    # What is read last lies last; a tied head is the embedding.
    last = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    yield last, _ROLES[last], 0


def _add(
    writer: PackedWriter, role: int, layer: int, tensor: Any, name: str, config: ModelConfig, stored: "_Stored | None"
) -> None:
    """One parameter: a vector as floats, a matrix in the precision in which it is stored."""
    import torch

    if tensor.ndim == 1 or name == "model.embed_positions.weight":
        vector = tensor.float()
        if config.norm_offset and "norm.weight" in name:
            vector = vector + config.norm_offset
        data = vector.contiguous().numpy()
        writer.add(role, layer, Kind.F32, 1 if data.ndim == 1 else len(data), data.shape[-1], data.tobytes())
        return
    rows, columns = tensor.shape
    if stored is not None and stored.blocks is not None:
        kind = GGUF_KINDS[stored.kind][0]
        writer.add(role, layer, kind, rows, columns, pack_blocks(stored.blocks, kind))
        return
    if stored is not None and stored.kind not in ("F32", "F16", "BF16"):
        # A kind that the core does not compute with, rounded once more, to eight bits.
        records = quantised(tensor.float().contiguous().numpy())
        writer.add(role, layer, Kind.I8, rows, columns, pack_blocks(records, Kind.I8))
        return
    if stored is not None and stored.kind != "F32":
        tensor = tensor.to(torch.float16 if stored.kind == "F16" else torch.bfloat16)  # exact: it comes from there
    if tensor.dtype in (torch.float16, torch.bfloat16):
        kind = Kind.F16 if tensor.dtype == torch.float16 else Kind.BF16
        bits: npt.NDArray[np.uint16] = tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
        writer.add(role, layer, kind, rows, columns, pack_floats(bits, kind))
    else:
        writer.add(role, layer, Kind.F32, rows, columns, pack_floats(tensor.float().contiguous().numpy(), Kind.F32))


@dataclass(frozen=True, slots=True)
class _Stored:
    """How a GGUF file stores a matrix: its kind, and its blocks where they can be kept as they are."""

    kind: str
    blocks: npt.NDArray[np.void] | None = None


def _stored_matrices(path: Path, config: ModelConfig, shapes: dict[str, int]) -> dict[str, _Stored]:
    """The matrices of a GGUF file under our names.

    Args:
        path: of the file.
        config: of the model.
        shapes: rows of each of our parameters.
    """
    from cadran.model.families import FAMILIES
    from cadran.model.gguf.translate import GgufModel

    found: dict[str, _Stored] = {}
    with GgufModel.open(path) as source:
        kinds = dict(source.kinds())
        entries = {entry.name: entry for entry in FAMILIES[config.family].stored(shapes)}
        for name, entry in entries.items():
            found |= {ours: _Stored(kinds[name]) for ours in entry.ours if name in kinds}
        for name, encoded, turned in source.blocks():
            entry = entries[name]
            if encoded.kind not in GGUF_KINDS or entry.transposed != turned:
                continue
            records = encoded.rows.view(GGUF_KINDS[encoded.kind][1])
            ends = np.cumsum([shapes[ours] for ours in entry.ours])
            for ours, part in zip(entry.ours, np.split(records, ends[:-1]), strict=True):
                found[ours] = _Stored(encoded.kind, part)
    return found


def _frequencies(config: ModelConfig) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    from cadran.model.rope import inverse_frequencies

    for role, rope in ((_FREQUENCIES, config.rope), (_LOCAL_FREQUENCIES, config.local_rope)):
        if rope is not None:
            width = int(config.head_width * rope.share)
            yield role, inverse_frequencies(width, rope, config.context).contiguous().numpy()


if __name__ == "__main__":
    answer(pack)
