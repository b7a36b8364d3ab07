"""A model that lies on this machine already: its files are copied, so that nothing changes it from outside.

On file systems that can (Btrfs, XFS), the copy shares its blocks with the original and costs nothing.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cadran.errors import UserError
from cadran.library.origin import Fetched
from cadran.library.progress import Progress
from cadran.library.room import refuse_without_room
from cadran.library.vetting import is_companion, only_pickles, vet_file
from cadran.model.weight_files import INDEX, is_plain, weight_files

_PIECE = 1 << 22  # bytes
_CLONE = 0x40049409  # FICLONE of Linux's <linux/fs.h>


@dataclass(frozen=True, slots=True)
class LocalOrigin:
    """A folder with ``config.json`` and safetensors, a ``.gguf`` file, or a folder with one such file."""

    path: Path

    @property
    def text(self) -> str:
        """Its last name only: where it lay says something of this machine."""
        return f"local:{self.path.resolve().name}"

    @property
    def default_name(self) -> str:
        """The folder's name, or the file's without its ending."""
        return self.path.resolve().name.removesuffix(".gguf")

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """See `Origin.fetch`."""
        paths = self._files()
        total = sum(path.stat().st_size for path in paths)
        refuse_without_room(self.path.name, total, folder)
        done = 0
        for path in paths:
            # A link into a cache is followed, so the file is looked at where it really is.
            done = _copy(path.resolve(), folder / path.name, done, total, progress)
        return Fetched()

    def _files(self) -> list[Path]:
        path = self.path
        if path.is_file():
            if path.suffix != ".gguf":
                raise UserError(f"{path} is no .gguf file: give one, or a folder with config.json and safetensors")
            vet_file(path.resolve())
            return [path]
        if not path.is_dir():
            raise UserError(f"there is no {path}: give the path of a folder or of a .gguf file")
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        if "config.json" not in names:
            ggufs = [name for name in names if name.endswith(".gguf")]
            if len(ggufs) != 1:
                raise UserError(f"{path} holds no config.json and {len(ggufs)} .gguf files: give the path of one model")
            return [path / ggufs[0]]
        if not any(name.endswith(".safetensors") for name in names) and (error := only_pickles(names)):
            raise error
        weights = weight_files(path)
        index = [path / INDEX] if len(weights) > 1 or weights[0].name != "model.safetensors" else []
        return [path / name for name in names if is_companion(name) and is_plain(name)] + index + weights


def _copy(source: Path, target: Path, done: int, total: int, progress: Progress) -> int:
    """Copy a file; bytes of the whole model that are then done."""
    part = target.with_name(f".{target.name}.part")
    with source.open("rb") as file, part.open("wb") as copy:
        if _cloned(file.fileno(), copy.fileno()):
            done += source.stat().st_size
        else:
            while piece := file.read(_PIECE):
                copy.write(piece)
                done += len(piece)
                progress(target.name, done, total)
        copy.flush()
        os.fsync(copy.fileno())
    part.replace(target)
    return done


def _cloned(source: int, target: int) -> bool:
    try:
        import fcntl

        fcntl.ioctl(target, _CLONE, source)
    except (ImportError, OSError):
        return False
    return True
