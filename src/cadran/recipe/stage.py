"""What a stage is: a name, what it stands on, the settings it reads, and the work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cadran.recipe.events import EventLog
from cadran.recipe.run import Run
from cadran.recipe.schema import Recipe

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how far it is, and how far it goes (None when that is unknown)."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage gets to work with.

    Attributes:
        recipe: resolved.
        run: the run directory.
        folder: the stage's own folder, empty but for its checkpoints.
        name: of the stage.
        needs: names of the stages it stands on.
        key: hash of everything the result depends on.
        log: event file; ``record`` adds the stage's name.
        progress: for the progress bar.
        cache: folder for what was fetched, shared by all runs.
    """

    recipe: Recipe
    run: Run
    folder: Path
    name: str
    needs: tuple[str, ...]
    key: str
    log: EventLog
    progress: Progress
    cache: Path

    def record(self, event: dict[str, Any]) -> None:
        """Append an event of this stage."""
        self.log.append({"stage": self.name, **event})


class Stage(Protocol):
    """One step of the pipeline."""

    @property
    def name(self) -> str:
        """Its name, which is also its folder's."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages whose artefacts it reads."""

    @property
    def version(self) -> int:
        """Raised by hand when the same settings would give another result than before."""

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The part of the recipe on which the result depends; JSON."""

    def run(self, context: StageContext) -> None:
        """Do the work and leave the artefacts in ``context.folder``."""
