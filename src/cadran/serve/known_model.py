"""A model that could be served: its name, where it lies, what its headers say. Nothing is opened for it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cadran.library.header import ModelHeader, read_header
from cadran.model.weight_files import weight_files
from cadran.serve.digest import weights_digest


@dataclass(frozen=True)
class KnownModel:
    """One entry of the list of models.

    Attributes:
        name: what clients write.
        path: of the folder or file.
        aliases: further names.
        adapter: folder of a LoRA adapter that is put on it, or None. It is then named ``MODEL:ADAPTER``.
        number: of the adapter; no other has it while the server runs, whatever comes and goes.
    """

    name: str
    path: Path
    aliases: tuple[str, ...] = ()
    adapter: Path | None = None
    number: int | None = None

    @cached_property
    def header(self) -> ModelHeader:
        """What its files say; ``UserError`` when they are damaged."""
        return read_header(self.path)

    @cached_property
    def created(self) -> float:
        """When its weights were written, seconds since 1970."""
        return max(path.stat().st_mtime for path in self._files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its weights, 64 hexadecimal digits: version, digest and proof of what was served.

        May read them all: on the event loop ask ``digest.digest_of``. ``UserError`` when they cannot be read.
        """
        return weights_digest(self._files)

    @property
    def _files(self) -> list[Path]:
        files = [self.path] if self.path.is_file() else weight_files(self.path)
        return sorted(files) + ([self.adapter / "adapter_model.safetensors"] if self.adapter else [])

    @property
    def base(self) -> str:
        """Of an adapter, the name of the model that it lies over; else ""."""
        return self.name.rpartition(":")[0] if self.adapter is not None else ""

    @property
    def adapter_name(self) -> str:
        """Of an adapter, its name without the model's; else ""."""
        return self.name.rpartition(":")[2] if self.adapter is not None else ""

    @property
    def owner(self) -> str:
        """The part of its name before the slash, where it has one."""
        owner, slash, _ = self.name.rpartition("/")
        return owner if slash else "cadran"

    @property
    def short_name(self) -> str:
        """The part after it."""
        return self.name.rpartition("/")[2]
