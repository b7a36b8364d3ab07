"""The LoRA adapters of a server: those that its settings name, and those that clients load while it runs.

This knows which adapter lies over which model; the shelf opens and closes them. Clients name folders only within the
one folder that the settings open to them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.known_model import KnownModel

MOST = 64
"""Adapters that clients may have loaded at a time: each takes memory until it is unloaded."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class _Placed:
    """An adapter over a model; ``base`` is "" as long as there is no first model."""

    base: str
    name: str
    folder: Path
    number: int


class Adapters:
    """Which adapter lies over which model.

    Args:
        configured: folders, by ``NAME`` for the first model or by ``MODEL:NAME``.
        alias: further names of models, by which the keys may call them.
        folder: that clients may load adapters from; None lets them load none.

    Raises:
        UserError: a key lacks a part, or the folder is none.
    """

    def __init__(
        self, configured: Mapping[str, str], alias: Mapping[str, str] | None = None, folder: str | None = None
    ) -> None:
        self._alias, self._folder = alias or {}, None if folder is None else Path(folder).expanduser()
        if self._folder is not None and not self._folder.is_dir():
            raise UserError(f"adapter_folder is {folder} and there is no such folder; make it, or name another")
        self._configured = [
            self._parsed(key, Path(path).expanduser(), number) for number, (key, path) in enumerate(configured.items())
        ]
        self._loaded: dict[int, _Placed] = {}
        self._next, self._checked = len(self._configured), False

    def _parsed(self, key: str, folder: Path, number: int) -> _Placed:
        base, colon, name = key.rpartition(":")
        if not name or (colon and not base):
            raise UserError(f"the adapter {key!r} lacks a name; write NAME=FOLDER, or MODEL:NAME=FOLDER")
        return _Placed(self._alias.get(base, base), name, folder, number)

    def over(self, models: Sequence[KnownModel]) -> list[KnownModel]:
        """The adapters over models, in the order in which they are numbered.

        One whose model has gone is left out; if it was loaded, it has gone too.

        Raises:
            UserError: called for the first time, the settings name a model that is not there, or an adapter twice.
        """
        by_name = {model.name: model for model in models}
        if models:  # what is first now stays the base of those that name none, whatever is trained or pulled later
            self._configured = [each if each.base else replace(each, base=models[0].name) for each in self._configured]
        if not self._checked:
            self._check(by_name)
            self._checked = True
        self._loaded = {number: each for number, each in self._loaded.items() if each.base in by_name}
        placed = [*self._configured, *self._loaded.values()]
        return [_known(by_name[each.base], each) for each in placed if each.base in by_name]

    def _check(self, models: Mapping[str, KnownModel]) -> None:
        seen = set()
        for each in self._configured:
            if each.base and each.base not in models:
                there = ", ".join(models) or "none"
                raise UserError(
                    f"the adapter {each.name} is for {each.base}, which is not served; those served: {there}"
                )
            if (each.base, each.name) in seen:
                raise UserError(f"the adapter {each.base}:{each.name} is named twice; give one of them another name")
            seen.add((each.base, each.name))

    def refuse_unless_open(self) -> None:
        """See that clients may load and unload adapters here.

        Raises:
            ApiError: the settings open no folder to them.
        """
        if self._folder is None:
            raise ApiError(
                "permission",
                "this server loads no adapters from outside; start it with --adapter-folder FOLDER, or set "
                "adapter_folder in cadran.toml",
            )

    def find(self, path: str) -> Path:
        """The folder that a client means. Asks the file system: call it in a thread.

        Args:
            path: relative to ``adapter_folder``, or absolute and within it.

        Raises:
            ApiError: it lies elsewhere, it is not there, or it holds no adapter.
        """
        self.refuse_unless_open()
        assert self._folder is not None
        try:
            root = self._folder.resolve()
            folder = (root / path).resolve()
            inside = folder != root and folder.is_relative_to(root)
            there = inside and folder.is_dir()
            adapter = there and (folder / _CONFIG).is_file()
        except (OSError, ValueError, RuntimeError):  # too long, no text of this file system, links in a circle
            inside, there, adapter = True, False, False
        shown = path if len(path) <= 200 else f"{path[:200]}…"
        if not inside:
            raise ApiError("permission", f"{shown!r} lies outside of adapter_folder; name one in it", param="lora_path")
        if not there:
            raise ApiError("not_found", f"there is no folder {shown!r} in adapter_folder", param="lora_path")
        if not adapter:
            raise ApiError(
                "invalid", f"{shown!r} holds no adapter; name a folder with {_CONFIG} in it", param="lora_path"
            )
        return folder

    def load(self, base: KnownModel, name: str, folder: Path) -> KnownModel:
        """Note that an adapter lies over a model from now on.

        Raises:
            ApiError: the name has other characters than it may, or too many are loaded.
        """
        if not _NAME.fullmatch(name) or name == "latest":  # MODEL:latest is how Ollama's clients name a model
            raise ApiError(
                "invalid",
                "an adapter's name is up to 64 letters, digits, dots, hyphens and underscores, begins with a letter or "
                "a digit, and is not latest; give it another",
                param="lora_name",
            )
        if len(self._loaded) >= MOST:
            raise ApiError("invalid", f"{MOST} adapters are loaded, as many as may be; unload one of them first")
        placed = _Placed(base.name, name, folder, self._next)
        self._loaded[placed.number] = placed
        self._next += 1  # a number is never given twice: a client that remembers one must not get another adapter
        return _known(base, placed)

    def unload(self, known: KnownModel) -> None:
        """Note that an adapter is gone; may be called again.

        Raises:
            ApiError: it belongs to the settings.
        """
        number = known.number
        if any(each.number == number for each in self._configured):
            raise ApiError(
                "permission",
                f"the adapter {known.name} stands in the server's settings; only one that was loaded is unloaded",
                param="lora_name",
            )
        if number is not None:
            self._loaded.pop(number, None)


def _known(base: KnownModel, placed: _Placed) -> KnownModel:
    return KnownModel(f"{base.name}:{placed.name}", base.path, adapter=placed.folder, number=placed.number)
