"""A folder of the user's own files: txt, md, html, jsonl, parquet and py, all its subfolders included."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from cadran.corpus.sources.formats import FORMATS, Unreadable
from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.errors import UserError
from cadran.files import sha256_file


class FolderSource(Source):
    """A folder of text files, read in the order of their paths.

    Attributes:
        folder: its path; "~" is the home folder, and a relative path starts where the command was typed.
    """

    kind: ClassVar[str] = "folder"

    folder: Annotated[str, Field(min_length=1)]

    @classmethod
    def default_name(cls, values: Mapping[str, Any]) -> str:
        """The folder's own name, not where it lies."""
        return Path(str(values.get("folder"))).expanduser().absolute().name or cls.kind

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """Documents of all readable files; see `Source.documents`.

        A file that cannot be read or is binary is counted and skipped; only when none is left is it an error.
        """
        counts = Counter() if counts is None else counts
        number = 0
        files = self._files()
        for path, relative in files:
            try:
                for part, text, meta in FORMATS[path.suffix.lower()](path, counts):
                    number += 1
                    yield RawDocument(f"{relative}{part}", text, self.language, {"path": relative, **meta})
            except Unreadable as reason:
                counts[f"skipped file: {reason}"] += 1
            except OSError:
                counts["skipped file: cannot be opened"] += 1
        if not number:
            reasons = ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "all files are empty"
            raise UserError(
                f"No text could be read from the folder {self.folder} ({len(files)} files; {reasons}): "
                "check the files or point `folder:` at another folder."
            )

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the files and their hashes; see `Source.fingerprint`."""
        sha256, size = files_digest(self._files())
        typed = Path(self.folder)
        locator = typed.as_posix() if not (typed.is_absolute() or self.folder.startswith("~")) else typed.name
        return SourceRecord(self.name, self.kind, locator, self.licence, sha256, size)

    def _files(self) -> list[tuple[Path, str]]:
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            what = "is a file, not a folder: give the folder that contains it" if root.exists() else "does not exist"
            raise UserError(f"The folder {self.folder} {what}; correct `folder:` of the source {self.name}.")
        files = list_files(root, frozenset(FORMATS))
        if not files:
            kinds = " ".join(sorted(FORMATS))
            raise UserError(f"The folder {self.folder} holds no file to read ({kinds}): put some in, or name another.")
        return files


def list_files(root: Path, suffixes: frozenset[str]) -> list[tuple[Path, str]]:
    """Files below ``root`` with one of the suffixes, as (path, path relative to root), sorted by the latter.

    Hidden files and folders are left out, and so is every symbolic link that leaves ``root``: a link in a folder of
    data must not pull private files into a corpus. Linked folders are not entered, so that no cycle can occur.
    """
    home = root.resolve()
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                continue
            if path.exists() and not path.is_file():
                continue  # a pipe would block, a device never end
            found.append((path, path.relative_to(root).as_posix()))
    return sorted(found, key=lambda file: file[1])


def files_digest(files: list[tuple[Path, str]]) -> tuple[str, int]:
    """SHA-256 over the relative paths and contents of files, and their total size in bytes."""
    digest = hashlib.sha256()
    size = 0
    for path, relative in files:
        try:
            content = sha256_file(path)
            size += path.stat().st_size
        except OSError:
            content = "unreadable"
        digest.update(f"{relative}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest(), size
