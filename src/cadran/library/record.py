"""``cadran.json`` of a pulled or exported model: its origin, its licence, the hash of each file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.files import read_json, sha256_file, write_json

RECORD = "cadran.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a model on this machine.

    Attributes:
        name: its local name.
        origin: what `pull` was asked for, or "export of" another model.
        revision: commit of a hub; None elsewhere.
        licence: as its publisher names it; None when nobody says.
        files: by name.
        lineage: what a ``cadran.json`` that came with it says.
    """

    name: str
    origin: str
    revision: str | None
    licence: str | None
    files: dict[str, FileRecord]
    lineage: dict[str, Any] | None = field(default=None)

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files.values())

    def write(self, folder: Path) -> None:
        """Write it beside the files."""
        write_json(folder / RECORD, {key: value for key, value in asdict(self).items() if value is not None})

    def why_damaged(self, folder: Path) -> str | None:
        """What differs from the record by name or size; None when nothing does."""
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != file.bytes:
                return f"{name} has {path.stat().st_size} bytes instead of {file.bytes}"
        return None


def file_records(folder: Path, known: Mapping[str, str]) -> dict[str, FileRecord]:
    """Sizes and hashes of the visible files in a folder, the record itself left out.

    Args:
        folder: of the model.
        known: SHA-256 of files that have been verified, by name; the others are read.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != RECORD)
    return {path.name: FileRecord(path.stat().st_size, known.get(path.name) or sha256_file(path)) for path in files}


def read_record(folder: Path) -> Record:
    """The record in a model's folder.

    Raises:
        UserError: it is missing or not to be understood.
    """
    path = folder / RECORD
    try:
        content = read_json(path)
        files = {str(name): FileRecord(int(f["bytes"]), str(f["sha256"])) for name, f in content["files"].items()}
        revision, licence = content.get("revision"), content.get("licence")
        return Record(str(content["name"]), str(content["origin"]), revision, licence, files, content.get("lineage"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        name = folder.name
        raise UserError(f"{path} cannot be read: type cadran models rm {name}, then pull {name} again") from error


def foreign_record(folder: Path) -> dict[str, Any] | None:
    """A ``cadran.json`` that came with the files, to be kept inside our own."""
    path = folder / RECORD
    try:
        content = read_json(path) if path.stat().st_size < 1 << 20 else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
