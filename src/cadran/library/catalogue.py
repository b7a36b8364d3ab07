"""``cadran models``: every model on this machine, pulled or trained, described from its headers alone."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.library.find import checked_name, model_path, models_folder, pulled_names, unfinished_names
from cadran.library.header import read_header
from cadran.library.record import RECORD, read_record


@dataclass(frozen=True, slots=True)
class Entry:
    """One model.

    Attributes:
        name: what a MODEL argument would be.
        place: ``pulled``, ``run`` or ``unfinished``.
        architecture, parameters, bytes, kind, context, licence, capabilities: from its headers; None where it is
            damaged or nobody says.
        origin: what it was pulled from; None for a run.
        problem: why it cannot be described; None when it can.
    """

    name: str
    place: str
    architecture: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    kind: str | None = None
    context: int | None = None
    licence: str | None = None
    capabilities: tuple[str, ...] = ()
    origin: str | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__} | {"capabilities": list(self.capabilities)}


def catalogue(runs: Path) -> list[Entry]:
    """The models that are here: pulled ones, those of runs, then unfinished ones, each kind by name.

    Args:
        runs: the folder of all runs; need not exist.
    """
    pulled = [_pulled(name) for name in pulled_names()]
    trained = [_described(Entry(name, "run"), folder) for name, folder in run_models(runs)]
    waiting = "its fetching was interrupted: pull it again to go on, or type cadran models rm"
    return pulled + trained + [Entry(name, "unfinished", problem=f"{waiting} {name}") for name in unfinished_names()]


def run_models(runs: Path) -> list[tuple[str, Path]]:
    """Name and folder of each stage of a run that holds a finished model."""
    found = (path.parent for path in runs.glob("*/*/config.json")) if runs.is_dir() else ()
    finished = (folder for folder in found if (folder / "stage.json").is_file())
    return sorted((f"{folder.parent.name}/{folder.name}", folder) for folder in finished)


def remove(name: str) -> None:
    """Take a pulled model away, or what an interrupted fetching left of one.

    Raises:
        UserError: there is none of that name, or it is no folder of ours.
    """
    models, name = models_folder(), checked_name(name)
    folder, unfinished = models / name, models / f".{name}.pulling"
    if folder.is_symlink() or (folder.exists() and not (folder / RECORD).is_file()):
        raise UserError(f"{folder} was not pulled: remove it yourself if you mean to")
    if folder.is_dir():
        # First out of sight in one step, so that a half-removed model is never taken for one.
        hidden = models / f".{name}.removing"
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)
    elif not unfinished.is_dir():
        known = ", ".join(pulled_names()) or "none"
        raise UserError(f"there is no pulled model {name}: those here are {known}")
    shutil.rmtree(unfinished, ignore_errors=True)


def _pulled(name: str) -> Entry:
    folder = models_folder() / name
    entry = Entry(name, "pulled")
    try:
        record = read_record(folder)
        entry = Entry(name, "pulled", bytes=record.bytes, licence=record.licence, origin=record.origin)
        damage = record.why_damaged(folder)
    except UserError as error:
        damage = str(error)
    path = model_path(folder)
    if damage or path is None:
        return _with(
            entry, problem=f"damaged ({damage or 'no model'}): type cadran models rm {name}, then pull it again"
        )
    return _described(entry, path)


def _described(entry: Entry, path: Path) -> Entry:
    try:
        header = read_header(path)
    except UserError as error:
        return _with(entry, problem=str(error))
    return _with(
        entry,
        architecture=header.architecture,
        parameters=header.parameters,
        bytes=entry.bytes or header.bytes,
        kind=header.kind,
        context=header.context,
        licence=entry.licence or header.licence,
        capabilities=tuple(header.tokenizer.capabilities),
        problem=header.unknown,
    )


def _with(entry: Entry, **changes: Any) -> Entry:
    return Entry(**{name: getattr(entry, name) for name in entry.__slots__} | changes)
