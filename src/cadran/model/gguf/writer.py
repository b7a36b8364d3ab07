"""Writing a GGUF file: version 3, little-endian, tensors at multiples of 32 bytes, whole or absent.

The head of the file needs the shape of every tensor and tensors may come one at a time, so their bytes go to an
unnamed temporary file first and are copied behind the head: one tensor in memory at once, never the file.
Source: the GGUF specification, version 3.
"""

import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError
from cadran.files import replaced
from cadran.model.gguf.encoded import Encoded
from cadran.model.gguf.header import ALIGNMENT, ARRAY, BOOL, STRING, shown
from cadran.model.gguf.quantization import quantised_pieces
from cadran.model.gguf.tensor_kind import CODES

Writable = int | float | bool | str | bytes | Sequence["Writable"]
"""What a metadata value may be; ``bytes`` become an array of 8-bit numbers."""

_VERSION = 3
_LONGEST_NAME = 63  # bytes: what llama.cpp opens
_COPIED_AT_ONCE = 1 << 20  # bytes
_UINT8, _UINT32, _INT32, _FLOAT32, _UINT64, _INT64 = 0, 4, 5, 6, 10, 11
_LETTERS = {_UINT32: "I", _INT32: "i", _FLOAT32: "f", _UINT64: "Q", _INT64: "q"}


def write_gguf(
    path: Path,
    metadata: Mapping[str, Writable],
    tensors: Iterable[tuple[str, NDArray[np.float32] | Encoded, str]],
) -> None:
    """Write a GGUF file; it appears whole or not at all, and nothing is left behind when it fails.

    Whole numbers become 32-bit ones (unsigned alone, signed within arrays) or 64-bit ones where they do not fit;
    real numbers become float32: the types that llama.cpp asks for.

    Args:
        path: of the file, replaced when it exists.
        metadata: key -> value, written in this order; general.architecture is expected first by convention.
        tensors: name, float32 weights (row-major, one to four dimensions) and kind (see `quantization.WRITABLE`), in
            the order of the file; or blocks that are made already, and their kind. Taken one at a time, so a generator
            will do.

    Raises:
        UserError: a name comes twice or is too long, a value has no place in GGUF, or weights do not fit their kind.
    """
    temporary = path.with_name(f".{path.name}.writing")  # the next writer overwrites what a killed one has left
    pairs = b"".join(_text(key) + _typed(key, value) for key, value in metadata.items())
    with replaced(path, temporary) as file, tempfile.TemporaryFile(dir=path.parent) as data:
        records = _spool(data, tensors)
        file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(records), len(metadata)) + pairs)
        file.write(b"".join(records))
        file.write(_padding(file.tell()))
        data.seek(0)
        shutil.copyfileobj(data, file, _COPIED_AT_ONCE)


def _spool(data: IO[bytes], tensors: Iterable[tuple[str, NDArray[np.float32] | Encoded, str]]) -> list[bytes]:
    """Write the tensors' bytes to ``data``, each followed by its padding; the records that describe them."""
    records: list[bytes] = []
    names: set[str] = set()
    for name, weights, kind in tensors:
        if name in names or not 0 < len(name.encode()) <= _LONGEST_NAME:
            raise UserError(
                f"The tensor name {shown(name)} comes twice, is empty or is longer than {_LONGEST_NAME} bytes: name "
                "each tensor once, and shortly."
            )
        shape = weights.shape
        if not 1 <= len(shape) <= 4 or 0 in shape:
            raise UserError(f"The tensor {shown(name)} has the shape {shape}: give it one to four dimensions.")
        names.add(name)
        offset = data.tell()
        if isinstance(weights, Encoded):
            data.write(np.ascontiguousarray(weights.rows).data)
        else:
            for piece in quantised_pieces(kind, weights):
                data.write(piece)
        data.write(_padding(data.tell()))
        layout = f"<I{len(shape)}QIQ"
        records.append(_text(name) + struct.pack(layout, len(shape), *shape[::-1], CODES[kind], offset))
    return records


def _padding(position: int) -> bytes:
    return bytes(-position % ALIGNMENT)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(key: str, value: Writable) -> bytes:
    """The type of a metadata value, then the value."""
    if key == "general.alignment":
        raise ValueError(f"the alignment is always {ALIGNMENT}: leave general.alignment out")
    try:
        if not key:
            raise TypeError("a key has letters")
        code, content = _encoded(value)
    except (struct.error, OverflowError, TypeError, UnicodeEncodeError):
        raise UserError(f"The metadata value {shown(key)} has no place in a GGUF file: correct or remove it.") from None
    return struct.pack("<I", code) + content


def _encoded(value: Writable) -> tuple[int, bytes]:
    """Code of the type and bytes of a value."""
    if isinstance(value, bool):
        return BOOL, bytes([value])
    if isinstance(value, int):
        code = _UINT32 if 0 <= value < 1 << 32 else _INT32 if -(1 << 31) <= value < 0 else _wide(value)
        return code, struct.pack(f"<{_LETTERS[code]}", value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, _text(value)
    if isinstance(value, bytes):
        return ARRAY, struct.pack("<IQ", _UINT8, len(value)) + value
    code, content = _elements(value)
    return ARRAY, struct.pack("<IQ", code, len(value)) + content


def _elements(values: Sequence[Any]) -> tuple[int, bytes]:
    """Common type and bytes of the elements of an array; whole and real numbers together are real."""
    types = set(map(type, values))
    if types == {str}:
        return STRING, b"".join(map(_text, values))
    if types == {bool}:
        return BOOL, bytes(values)
    if types <= {int}:
        narrow = all(-(1 << 31) <= value < 1 << 31 for value in values)
        code = _INT32 if narrow else _wide(max(values))
        return code, struct.pack(f"<{len(values)}{_LETTERS[code]}", *values)
    if types <= {int, float}:
        return _FLOAT32, struct.pack(f"<{len(values)}f", *values)
    if types <= {list, tuple}:
        return ARRAY, b"".join(_encoded(value)[1] for value in values)
    raise TypeError("the elements are of several types")


def _wide(value: int) -> int:
    return _UINT64 if value >= 1 << 63 else _INT64
