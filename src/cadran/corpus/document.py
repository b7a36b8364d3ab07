"""A document: one text with its origin, and `documents.jsonl`, the file in which a corpus keeps them.

One JSON object a line with the keys id, text, source, language, split, meta, in that order.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cadran.corpus.jsonl import JsonLines
from cadran.errors import UserError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus.

    Attributes:
        id: 16 hexadecimal digits, see `document_id`; stable as long as the source keeps its keys.
        text: normalised text (`cadran.corpus.normalise`).
        source: name of the source.
        language: ISO 639-1 code, or "und" when nobody can tell.
        meta: what the source knows besides the text. Articles have title, description, topic, extract; chats have
            messages (a JSON list of {role, content}); rows without a text have row (the row as JSON).
    """

    id: str
    text: str
    source: str
    language: str
    meta: dict[str, str]


def document_id(source: str, key: str) -> str:
    """First 16 hexadecimal digits of sha256(source name + NUL + key within the source)."""
    # A key taken from a hostile file may hold a lone surrogate, which UTF-8 refuses.
    return hashlib.sha256(f"{source}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


class DocumentWriter:
    """Context manager that writes `documents.jsonl` atomically.

    Args:
        path: the file to replace when the block ends without an error.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def write(self, document: Document, split: Split) -> None:
        """Append one document with the split it belongs to."""
        self._lines.write(
            {
                "id": document.id,
                "text": document.text,
                "source": document.source,
                "language": document.language,
                "split": split,
                "meta": document.meta,
            }
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)


def read_documents(path: Path) -> Iterator[tuple[Document, Split]]:
    """Documents of a `documents.jsonl` in file order, each with its split; one line in memory at a time.

    Raises:
        UserError: the file is missing, or a line is not a document (the line is named).
    """
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"There is no {path.name} in {path.parent}: build the corpus first with `cadran run`."
        ) from None
    with file:
        try:
            for number, line in enumerate(file, start=1):
                yield _parse(line, number, path)
        except UnicodeDecodeError:
            raise UserError(
                f"{path} is damaged (it is not UTF-8): delete it and run the same `cadran run` again."
            ) from None


def _parse(line: str, number: int, path: Path) -> tuple[Document, Split]:
    try:
        row = json.loads(line)
        document = Document(row["id"], row["text"], row["source"], row["language"], row["meta"])
        split: Split = SPLITS[SPLITS.index(row["split"])]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"Line {number} of {path} is not a document: delete the file and run the same `cadran run` again."
        ) from None
    return document, split
