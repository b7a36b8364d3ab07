"""Documents on disk while a corpus is being built: written once in order, read again in order or by number.

So that a corpus larger than memory can be deduplicated: what stays in memory is eight bytes per document.
"""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, overload

from cadran.corpus.document import Document
from cadran.corpus.jsonl import encode_line


class DocumentSpool(Sequence[str]):
    """A temporary file of documents; as a sequence it gives their texts.

    Args:
        path: where to put it; whatever lies there is overwritten, and the file is removed when the block ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = array("Q")
        self._end = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w+b")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, document: Document) -> None:
        """Add a document at the end; all documents are added before the first one is read."""
        line = encode_line([document.id, document.text, document.source, document.language, document.meta])
        self._file.write(line)
        self._offsets.append(self._end)
        self._end += len(line)

    def document(self, index: int) -> Document:
        """The document that was added as number ``index``."""
        self._file.seek(self._offsets[index])
        return Document(*json.loads(self._file.readline()))

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.document(position).text for position in range(*index.indices(len(self)))]
        return self.document(index).text
