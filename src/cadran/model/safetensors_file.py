"""A safetensors file, read without trust: a header of JSON, then raw numbers (format of Hugging Face, 2022).

Tensors are read one by one into fresh, aligned memory, so that opening a model costs its size once: a memory map
would be counted beside whatever is copied out of it. The header can be read without torch.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from cadran.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_HEADER = 100 << 20
"""Bytes; the limit of the format."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number of each kind that is known here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file.

    Attributes:
        kind: ``F32`` and so on, as the format names them.
        shape: its axes, outermost first.
        start, stop: its bytes in the file.
    """

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """An open file.

    Args:
        path: of the file.

    Attributes:
        entries: by name, in the order of the header.
        metadata: texts that the writer added.

    Raises:
        UserError: it is no such file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); make or fetch it again") from error
        try:
            self.entries, self.metadata = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, name: str) -> "Tensor":
        """One tensor, in memory of its own.

        Raises:
            UserError: its kind is not known, or the file ends before it.
            KeyError: there is no such tensor.
        """
        import torch

        dtypes = {
            "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
            "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
            "BOOL": torch.bool,
        }  # fmt: skip
        entry = self.entries[name]
        tensor = torch.empty(entry.shape, dtype=dtypes[entry.kind])
        if entry.stop > entry.start:
            room = tensor.view(-1).view(torch.uint8).numpy().data
            self._file.seek(entry.start)
            if self._file.readinto(room) != len(room):  # type: ignore[attr-defined]
                raise self._damaged(f"it ends inside {name}")
        return tensor

    def _header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        size = self.path.stat().st_size
        first = self._file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise self._damaged("its header does not fit")
        try:
            content = json.loads(self._file.read(length), object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is no JSON: {str(error)[:80]}") from error
        if not isinstance(content, dict):
            raise self._damaged("its header is no object")
        metadata = content.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._damaged("its metadata are no texts")
        entries = {name: self._entry(name, value, 8 + length, size) for name, value in content.items()}
        reached = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            if entry.start != reached:
                raise self._damaged(f"{name[:60]!r} does not begin where the tensor before it ends")
            reached = entry.stop
        if reached != size:
            raise self._damaged(f"it has {size} bytes and its header speaks of {reached}")
        return entries, metadata

    def _entry(self, name: str, value: Any, base: int, size: int) -> Entry:
        kind = value.get("dtype") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in WIDTHS:
            raise self._damaged(f"{name[:60]!r} is of the kind {str(kind)[:20]!r}, not {', '.join(WIDTHS)}")
        shape, offsets = value.get("shape"), value.get("data_offsets")
        if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
            raise self._damaged(f"{name[:60]!r} has no shape or place")
        start, stop = base + offsets[0], base + offsets[1]
        if not start <= stop <= size or math.prod(shape) * WIDTHS[kind] != stop - start:
            raise self._damaged(f"the shape of {name[:60]!r} does not fit its place")
        return Entry(kind, tuple(shape), start, stop)

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} cannot be read as safetensors ({why}); make or fetch it again")


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 1 << 62 for x in value
    )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands in it twice")
    return result
