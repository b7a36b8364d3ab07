"""The bar of work that is counted in steps: what is being done, how far, how long still."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Draws progress on standard error; a context manager.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._doing = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def progress(self, doing: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task(doing, total=total, completed=done)
        elif doing != self._doing:
            self._bar.reset(self._task, total=total, completed=done, description=doing)
        else:
            self._bar.update(self._task, total=total, completed=done)
        self._doing = doing
