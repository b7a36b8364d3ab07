"""The cached file of repacked weights: a JSON header that says what the model is and where each tensor lies.

Layout: 8 bytes of magic, 8 bytes little-endian length of the header, the header, and tensors at multiples of 64 bytes.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cadran.engine.native.layout import VERSION

MAGIC = b"CADRANPK"
_LINE = 64
_MOST_HEADER = 1 << 26  # bytes


@dataclass(frozen=True, slots=True)
class Packed:
    """A file of repacked weights.

    Attributes:
        shape: fields of ``cadran_shape``, ``windowed`` as a list of 0 and 1.
        tensors: role, layer, kind, rows, columns, offset, bytes of each.
    """

    shape: dict[str, Any]
    tensors: npt.NDArray[np.int64]


class PackedWriter:
    """Writes tensors one after the other; the header, whose size is then known, comes last and lies at the end.

    Args:
        file: empty, open for writing.

    Attributes:
        tensors: role, layer, kind, rows, columns, offset, bytes of what was added.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tensors: list[tuple[int, ...]] = []
        file.write(MAGIC + struct.pack("<QQ", 0, 0))

    def add(self, role: int, layer: int, kind: int, rows: int, columns: int, data: bytes) -> None:
        """Append a tensor; roles are those of native/cadran.h."""
        self._file.write(b"\0" * (-self._file.tell() % _LINE))
        self.tensors.append((role, layer, kind, rows, columns, self._file.tell(), len(data)))
        self._file.write(data)

    def finish(self, shape: dict[str, Any]) -> None:
        """Write the header."""
        header = json.dumps({"version": VERSION, "shape": shape, "tensors": self.tensors}).encode()
        at = self._file.tell()
        self._file.write(header)
        self._file.seek(len(MAGIC))
        self._file.write(struct.pack("<QQ", at, len(header)))


def read_packed(path: Path) -> Packed | None:
    """Open a file of repacked weights; None when it is not one of this version, or is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            at, length = struct.unpack("<QQ", file.read(16))
            if length > _MOST_HEADER or at + length != path.stat().st_size:
                return None
            file.seek(at)
            header = json.loads(file.read(length))
        if header["version"] != VERSION:
            return None
        return Packed(dict(header["shape"]), _table(header["tensors"]))
    except (OSError, ValueError, KeyError, TypeError, struct.error, OverflowError):
        return None


def _table(tensors: Iterable[Iterable[int]]) -> npt.NDArray[np.int64]:
    table = np.array(tensors, np.int64)
    if table.ndim != 2 or table.shape[1] != 7:
        raise ValueError("not a table of tensors")
    return table
