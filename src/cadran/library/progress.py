"""How fetching is told to whoever draws it."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, bytes done and bytes in all (None when nobody knows)."""


def silent(doing: str, done: int, total: int | None) -> None:
    """Draw nothing."""
