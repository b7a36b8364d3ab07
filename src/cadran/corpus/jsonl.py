"""A JSON-lines file that is either whole or absent, written line by line so that memory stays flat.

The counterpart of `cadran.files.write_text` for files too large to hold as one string: lines go to a file
beside the target, which is flushed to disk and renamed only when everything was written.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from cadran.files import sync_folder


def encode_line(record: Any) -> bytes:
    """One JSON record as a UTF-8 line: equal records have equal bytes (keys keep the order they were given)."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8") + b"\n"


class JsonLines:
    """Context manager that writes ``path`` atomically, one JSON record a line.

    Args:
        path: the file to replace. Nothing appears under that name until the ``with`` block ends without an error;
            after an error the old content is still there and the temporary file is gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.writing")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        return self

    def write(self, record: Any) -> None:
        """Append one record."""
        if self._file is None:
            raise ValueError("JsonLines.write is used inside a `with` block")
        self._file.write(encode_line(record))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
                file.close()
                self._temporary.replace(self.path)
                sync_folder(self.path.parent)
        finally:
            file.close()
            self._temporary.unlink(missing_ok=True)
