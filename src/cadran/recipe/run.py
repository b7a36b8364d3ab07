"""A run: the directory ``runs/NAME`` and what is known of each stage in it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.files import read_json, sha256_file, write_json
from cadran.library.find import find_pulled, model_path, pulled_names

MARKER = "stage.json"
CHECKPOINTS = "checkpoints"
MEASURED = ("report/index.html", "report/cost.json", "report/speed.svg", "report/time_per_stage.svg", "events.jsonl")
"""Files that hold clock times. All the others have the same bytes whenever the same recipe is run."""


def runs_folder() -> Path:
    """Where runs live: ``CADRAN_RUNS`` or ``runs`` in the working directory."""
    return Path(os.environ.get("CADRAN_RUNS", "runs"))


class Run:
    """One run directory.

    Args:
        folder: the directory; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @property
    def events(self) -> Path:
        """The event file."""
        return self.folder / "events.jsonl"

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.folder / name

    def marker(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage says of itself (``key``, ``artefacts``); None when it is not finished."""
        path = self.stage(stage) / MARKER
        try:
            content = read_json(path)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and {"key", "artefacts"} <= content.keys() else None

    def finish(self, stage: str, key: str) -> None:
        """Mark a stage as finished: hash its artefacts and write the marker last."""
        artefacts = {
            str(path.relative_to(self.folder)): sha256_file(path)
            for path in sorted(self.stage(stage).rglob("*"))
            if path.is_file() and self._is_artefact(path)
        }
        write_json(self.stage(stage) / MARKER, {"key": key, "artefacts": artefacts})

    def _is_artefact(self, path: Path) -> bool:
        relative = path.relative_to(self.folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        return (
            not hidden
            and relative.as_posix() not in MEASURED
            and CHECKPOINTS not in relative.parts
            and (relative.name != MARKER)
        )

    def intact(self, stage: str) -> bool:
        """Whether every artefact of a finished stage is there with the bytes it had."""
        marker = self.marker(stage)
        if marker is None:
            return False
        for name, expected in marker["artefacts"].items():
            path = self.folder / name
            if not path.is_file() or sha256_file(path) != expected:
                return False
        return True

    def write_manifest(self, stages: list[str]) -> None:
        """Write ``manifest.json``: SHA-256 of every artefact, and apart from them of the files with clock times."""
        artefacts: dict[str, str] = {}
        for name in stages:
            artefacts.update((self.marker(name) or {"artefacts": {}})["artefacts"])
        if (self.folder / "recipe.yaml").is_file():
            artefacts["recipe.yaml"] = sha256_file(self.folder / "recipe.yaml")
        measured = {name: sha256_file(self.folder / name) for name in MEASURED if (self.folder / name).is_file()}
        write_json(self.folder / "manifest.json", {"artefacts": artefacts, "measurements": measured})

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for this process; released by the system however the process ends.

        Raises:
            UserError: another process holds it.
        """
        return _locked(self.folder / ".lock", self.name)


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two commands on one run are then the user's own care
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another command is working on the run {name}; wait for it, or start a second run with name={name}-2"
            ) from error
        yield


def find_model(name: str) -> Path:
    """The model that a MODEL argument means: a run, a part of it, a folder, a file, or a pulled model.

    Args:
        name: ``quickstart``, ``quickstart/base``, ``quickstart/int4``, a path to a folder with ``config.json`` or one
            ``.gguf`` file, a path to such a file, or the name of a pulled model.

    Raises:
        UserError: there is none.
    """
    if Path(name).suffix == ".gguf" and Path(name).is_file():
        return Path(name)
    for candidate in (Path(name), runs_folder() / name):
        if candidate.is_dir() and (found := model_path(candidate)) is not None:
            return found
        for stage in ("ppo", "grpo", "kto", "dpo", "distil", "sft", "base"):
            if Run(candidate).marker(stage) is not None and (candidate / stage / "config.json").is_file():
                return candidate / stage
    if (pulled := find_pulled(name)) is not None:
        return pulled
    if (runs_folder() / name / "recipe.yaml").is_file():
        raise UserError(f"the run {name} has no model yet; type cadran run {name} to go on with it")
    known = [p.name for p in runs_folder().glob("*") if (p / "recipe.yaml").is_file()] if runs_folder().is_dir() else []
    known += pulled_names()
    hint = f"there are {', '.join(sorted(known))}" if known else "type cadran pull smollm2, or cadran run smoke"
    raise UserError(f"there is no model {name}; {hint}")
