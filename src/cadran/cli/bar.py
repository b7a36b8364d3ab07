"""The one progress bar of the command line: what is being done, how far, how long still."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """Draws progress; a context manager.

    Args:
        columns: what it shows.
        console: where to; standard error by default.
    """

    def __init__(self, *columns: ProgressColumn, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task: Any = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Move the bar; other work, or the same begun again, has a time and a speed of its own."""
        if self._task is None:
            self._task = self._bar.add_task(doing, total=total, completed=done)
            return
        task = self._bar.tasks[0]
        if doing != task.description or done < task.completed:
            self._bar.reset(self._task, total=total, completed=done, description=doing)
        else:
            self._bar.update(self._task, total=total, completed=done)


def steps() -> Bar:
    """A bar for work that is counted in steps."""
    return Bar(*_described(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))


def transfer() -> Bar:
    """A bar for bytes."""
    return Bar(*_described(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))


def _described() -> tuple[ProgressColumn, ProgressColumn]:
    return TextColumn("{task.description}", markup=False), BarColumn(24)
