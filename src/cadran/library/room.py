"""Whether a disk has room for what is about to come."""

import shutil
from pathlib import Path

from cadran.errors import UserError


class NoRoom(UserError):
    """The disk is too small; what has come so far stays, and the same command goes on when there is room."""


def refuse_without_room(name: str, needed: int, folder: Path) -> None:
    """Stop before a file is begun that cannot be finished.

    Args:
        name: of the file or model.
        needed: bytes still to be written.
        folder: on the disk that is meant.

    Raises:
        NoRoom: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoom(
            f"{name} needs {needed:,} bytes and {free:,} are free: free some space, or set CADRAN_HOME to a folder on "
            "a larger disk"
        )
