"""The hidden folder beside a model's future place, in which it is fetched; it stays after an interruption."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cadran.errors import UserError
from cadran.files import write_text
from cadran.library.find import PULLING

_ORIGIN = ".origin"


@contextmanager
def work_folder(models: Path, name: str, origin: str) -> Iterator[Path]:
    """Hold the folder in which a model is fetched.

    Args:
        models: the folder of all models; made when absent.
        name: of the model.
        origin: what is fetched into it. What an earlier command left there is kept when it fetched the same.

    Yields:
        The folder. The caller renames it, or leaves it there for the next command.

    Raises:
        UserError: another command holds it.
    """
    folder = models / f".{name}{PULLING}"
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder, name):
        _claim(folder, origin)
        try:
            yield folder
        finally:
            # Where nothing came there is nothing to go on with.
            if not any(path.is_file() and path.name != _ORIGIN for path in folder.rglob("*")):
                discard(folder)


def discard(folder: Path) -> None:
    """Remove a work folder."""
    shutil.rmtree(folder, ignore_errors=True)


def finish(folder: Path) -> None:
    """Take away what only the fetching needed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _claim(folder: Path, origin: str) -> None:
    marker = folder / _ORIGIN
    if not marker.is_file() or marker.read_text(encoding="utf-8", errors="replace") != origin:
        for path in folder.iterdir():
            _remove(path)
        write_text(marker, origin)


@contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two commands for one model are then the user's own care
        yield
        return
    # The folder itself is locked: a lock file would have to be cleared away, and the lock follows the renaming.
    just = f"another command has just fetched {name}; type cadran models to see it"
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:  # it was there a moment ago: the other renamed or removed it
        raise UserError(just) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another command is fetching {name}; wait for it, or choose another name with --name"
            ) from error
        if not folder.is_dir() or folder.stat().st_ino != os.fstat(handle).st_ino:
            raise UserError(just)
        yield
    finally:
        os.close(handle)
