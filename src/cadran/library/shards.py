"""Writing safetensors files one tensor at a time, cut into shards of a size that any file system and upload takes.

The header stands before the numbers and needs their places, so room for it is kept and filled in at the end; what is
left of the room is spaces, which the format allows.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cadran.files import write_json
from cadran.model.weight_files import INDEX, SINGLE

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SHARD = 5_000_000_000
"""Bytes; what `transformers` writes, too."""
_DESCRIPTION = 160  # bytes that the header has of a tensor at most, besides its name: kind, up to eight axes, place
_KINDS = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


def write_shards(
    folder: Path, names: Sequence[str], weights: Iterable[tuple[str, "Tensor"]], largest: int = LARGEST_SHARD
) -> None:
    """Write ``model.safetensors``, or several files and their index.

    Args:
        folder: must exist.
        names: of all tensors.
        weights: each name with its tensor (float32, float16 or bfloat16), taken one at a time.
        largest: bytes of numbers in one file; a tensor that is larger has a file of its own.
    """
    room = 64 + sum(len(json.dumps(name)) + _DESCRIPTION for name in names)
    shards: list[dict[str, int]] = []  # bytes of each tensor by name
    for shard in _shards(folder, weights, largest, room + -room % 8):
        shards.append(shard)
    if len(shards) == 1:
        _part(folder, 0).rename(folder / SINGLE)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        _part(folder, number).rename(folder / name)
        places |= dict.fromkeys(shard, name)
    total = sum(size for shard in shards for size in shard.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _part(folder: Path, number: int) -> Path:
    return folder / f".shard-{number}"


def _shards(folder: Path, weights: Iterable[tuple[str, "Tensor"]], largest: int, room: int) -> Iterator[dict[str, int]]:
    """Write the shards in turn; what is in each."""
    waiting = iter(weights)
    item = next(waiting, None)
    number = 0
    while item is not None or not number:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        sizes: dict[str, int] = {}
        with _part(folder, number).open("wb") as file:
            file.seek(8 + room)
            done = 0
            while item is not None:
                name, tensor = item
                size = tensor.numel() * tensor.element_size()
                if sizes and done + size > largest:
                    break
                _write(file, tensor)
                place = {"dtype": _KINDS[str(tensor.dtype)], "shape": list(tensor.shape)}
                header[name] = place | {"data_offsets": [done, done + size]}
                sizes[name], done = size, done + size
                item = next(waiting, None)
            content = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode().ljust(room)
            file.seek(0)
            file.write(room.to_bytes(8, "little") + content)
            file.truncate(8 + room + done)
            file.flush()
            os.fsync(file.fileno())
        yield sizes
        number += 1


def _write(file: IO[bytes], tensor: "Tensor") -> None:
    import torch

    if tensor.numel():
        file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
