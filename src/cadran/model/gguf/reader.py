"""Opening a GGUF file: its metadata at once, its tensors as views of a memory map.

The file is taken for hostile: sizes, offsets and counts are checked against the size of the file before anything is
allocated, and whatever is wrong ends in a `UserError`. Tensors of a kind that Cadran does not decode are listed, and
refused when their weights are asked for. The file must not be cut short while it is open: the operating system then
ends the process, as for any mapped file.
Source: the GGUF specification, versions 2 and 3, little-endian.
"""

from dataclasses import dataclass
from math import prod
from mmap import ACCESS_READ, mmap
from os import fstat
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError
from cadran.model.gguf.header import ALIGNMENT, HeaderCursor, Value, shown
from cadran.model.gguf.quantization import BLOCKS, dequantise
from cadran.model.gguf.tensor_kind import TensorKind, kind_of

_SMALLEST_KEY_AND_VALUE = 8 + 1 + 4 + 1  # bytes: length, one letter, type, a byte
_SMALLEST_TENSOR_RECORD = 8 + 4 + 8 + 4 + 8  # bytes: length of the name, number of dimensions, one, kind, offset
_MOST_DIMENSIONS = 4
_MOST_KEYS, _MOST_TENSORS = 1 << 16, 1 << 17  # a hundred times what large models have


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """One tensor of an open file.

    Attributes:
        name: as in the file.
        kind: "F32", "Q4_0" and the like; "type 99" for a code that is unknown here.
        shape: row-major, outermost dimension first (the file has it the other way round).
        data: its bytes, a view of the map; empty when the kind is unknown here, because then its size is.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: memoryview

    def dequantised(self) -> NDArray[np.float32]:
        """The weights in float32, of `shape`, in memory of their own.

        Raises:
            UserError: the kind is not one that Cadran decodes.
        """
        if self.kind not in BLOCKS:
            raise UserError(
                f"The tensor {shown(self.name)} is stored as {self.kind}, which is not supported: choose a file of "
                f"{', '.join(BLOCKS)}."
            )
        return dequantise(self.kind, self.data, self.shape)


class GgufFile:
    """An open GGUF file; a context manager.

    Attributes:
        path: of the file.
        version: 2 or 3.
        metadata: key -> value, in the order of the file.
        tensors: name -> tensor, in the order of the file.
    """

    def __init__(self, path: Path, content: mmap) -> None:
        """Read the header of a mapped file; `open` is the way in."""
        cursor = HeaderCursor(content, path)
        self.path = path
        self.version, n_tensors, n_keys = _start(cursor, content)
        self.metadata = _metadata(cursor, n_keys)
        self.tensors: dict[str, GgufTensor] = {}
        self._content = content
        self._view = memoryview(content)
        records = _tensor_records(cursor, n_tensors)
        alignment = _alignment(cursor, self.metadata)
        data_start = -(-cursor.position // alignment) * alignment
        for name, record in records.items():
            start, end = data_start + record.offset, data_start + record.end
            if record.offset % alignment or end > len(content):
                raise cursor.damaged(f"the data of the tensor {shown(name)} goes past the end or is out of line")
            self.tensors[name] = GgufTensor(name, record.kind.name, record.shape, self._view[start:end])
        _refuse_overlaps(cursor, records)

    @classmethod
    def open(cls, path: Path) -> "GgufFile":
        """Open a file for reading.

        Args:
            path: of a regular file.

        Raises:
            UserError: there is no such file, it is not GGUF of version 2 or 3 and little-endian, or it is damaged.
        """
        try:
            # A named pipe would make the opening wait for ever.
            if not path.is_file():
                raise UserError(f"There is no file {path}: give the path of a .gguf file.")
            with path.open("rb") as file:
                if not fstat(file.fileno()).st_size:
                    raise UserError(f"{path} is empty: fetch it with `cadran pull`, or copy it again.")
                content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path} cannot be opened ({error.strerror}): check its permissions.") from None
        return cls(path, content)

    def close(self) -> None:
        """Give the map back; `GgufTensor.data` is then unusable. A view that somebody still holds keeps it alive."""
        try:
            for tensor in self.tensors.values():
                tensor.data.release()
            self._view.release()
            self._content.close()
        except BufferError:
            # The operating system takes the map back when the last view is collected.
            pass

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _TensorRecord:
    """What the header says of one tensor; ``offset`` and ``end`` in bytes from the start of the data."""

    kind: TensorKind
    shape: tuple[int, ...]
    offset: int

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) // self.kind.weights * self.kind.size


def _start(cursor: HeaderCursor, content: mmap) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata keys."""
    magic = content[:4]
    if magic == b"FUGG":
        raise _big_endian(cursor)
    if magic != b"GGUF":
        raise cursor.unsupported("does not begin with GGUF")
    cursor.position = 4
    version = cursor.u32("its version")
    if version & 0xFFFF == 0 and version:
        raise _big_endian(cursor)
    if version == 1:
        raise cursor.unsupported("is GGUF version 1, given up in 2023")
    if version not in (2, 3):
        raise cursor.unsupported(f"is GGUF version {version}")
    return version, cursor.u64("the number of tensors"), cursor.u64("the number of metadata keys")


def _big_endian(cursor: HeaderCursor) -> UserError:
    return cursor.unsupported("is a big-endian GGUF file")


def _metadata(cursor: HeaderCursor, count: int) -> dict[str, Value]:
    if count > min(_MOST_KEYS, (cursor.limit - cursor.position) // _SMALLEST_KEY_AND_VALUE):
        raise cursor.damaged(f"it claims {count} metadata keys")
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.key()
        if key in metadata:
            raise cursor.damaged(f"the metadata key {shown(key)} comes twice")
        metadata[key] = cursor.value(f"the metadata value {shown(key)}")
    return metadata


def _tensor_records(cursor: HeaderCursor, count: int) -> dict[str, _TensorRecord]:
    if count > min(_MOST_TENSORS, (cursor.limit - cursor.position) // _SMALLEST_TENSOR_RECORD):
        raise cursor.damaged(f"it claims {count} tensors")
    records: dict[str, _TensorRecord] = {}
    for _ in range(count):
        name = cursor.text("the name of a tensor")
        what = f"the tensor {shown(name)}"
        if name in records:
            raise cursor.damaged(f"{what} comes twice")
        dimensions = cursor.u32(what)
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise cursor.damaged(f"{what} has {dimensions} dimensions")
        inner_first = [cursor.u64(what) for _ in range(dimensions)]
        kind, offset = kind_of(cursor.u32(what)), cursor.u64(what)
        # 2**63 - 1 is the largest size that arrays of any library can have.
        if prod(inner_first) >= 1 << 63 or 0 in inner_first or inner_first[0] % kind.weights:
            raise cursor.damaged(f"{what} of kind {kind.name} has the shape {tuple(reversed(inner_first))}")
        records[name] = _TensorRecord(kind, tuple(reversed(inner_first)), offset)
    return records


def _alignment(cursor: HeaderCursor, metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1) or alignment > cursor.limit:
        raise cursor.damaged("general.alignment is not a power of two within the file")
    return alignment


def _refuse_overlaps(cursor: HeaderCursor, records: dict[str, _TensorRecord]) -> None:
    end = 0
    for name, record in sorted(records.items(), key=lambda item: (item[1].offset, item[1].end)):
        if record.offset < end:
            raise cursor.damaged(f"the data of the tensor {shown(name)} overlaps that of another")
        end = record.end
