"""The bar of a transfer: what is being done, how much of it, how fast, how long still."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class Transfer:
    """Draws the progress of a transfer on standard error; a context manager.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task(doing, total=total, completed=done)
        elif done < self._bar.tasks[0].completed:  # a new file, or one begun again: its speed is its own
            self._bar.reset(self._task, total=total, completed=done, description=doing)
        else:
            self._bar.update(self._task, total=total, completed=done, description=doing)
