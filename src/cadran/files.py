"""Files that are either whole or absent: write beside, flush to disk, rename.

A process killed at any instant leaves the old content or the new one, never half of either.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` atomically and durably (temporary file, fsync, rename)."""
    # Of this writer alone: two that write one file at once, each replace it by a whole one.
    with replaced(path, path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.writing")) as file:
        file.write(content)


@contextmanager
def replaced(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write to, ``temporary``, that becomes ``path`` durably when the block ends; an error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` by ``content`` in UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by canonical JSON (sorted keys, two-space indent), so that equal content has equal bytes."""
    write_text(path, json.dumps(content, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable; a no-op where folders cannot be opened (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
