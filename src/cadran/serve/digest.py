"""What a model's weights are called by their content: SHA-256 digests, computed once and remembered over restarts.

A digest is remembered beside the size and the time of the file it is of, one small file each in the user's cache
folder; the record of a pulled model is believed for files that are older than itself. Nothing here is needed to serve:
where the cache folder cannot be written, gigabytes are read again at the next start.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cadran.errors import UserError
from cadran.files import read_json, sha256_file, write_json
from cadran.library.find import models_folder
from cadran.library.record import RECORD, read_record
from cadran.wheel import is_sha256

if TYPE_CHECKING:
    from cadran.serve.known_model import KnownModel


async def digest_of(known: "KnownModel") -> str:
    """``KnownModel.digest`` without making others wait: the weights are read in a thread, once.

    Raises:
        UserError: the files cannot be read.
    """
    held = vars(known)  # where its cached properties are kept, too
    if "digest" in held:
        return known.digest
    task = held.get("_digesting")
    if not isinstance(task, asyncio.Task) or task.done():
        task = held["_digesting"] = asyncio.create_task(asyncio.to_thread(lambda: known.digest))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
    # Who goes away does not stop the reading for those who wait with him.
    return str(await asyncio.shield(task))


def weights_digest(files: Sequence[Path]) -> str:
    """SHA-256 of weights, 64 hexadecimal digits. Several files are hashed by their digests, in the order given.

    Raises:
        UserError: a file cannot be read.
    """
    digests = [file_digest(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered for as long as its size and its time stay what they are.

    Raises:
        UserError: it cannot be read.
    """
    try:
        before = path.stat()
        note = _note_path(path)
        if (found := _noted(note, before) or _recorded(path, before)) is not None:
            return found
        found = sha256_file(path)
        after = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fetch the model again") from error
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        with suppress(OSError):  # a convenience
            _forget_missing(note.parent)
            write_json(
                note,
                {"path": _text(path), "bytes": after.st_size, "mtime_ns": after.st_mtime_ns, "sha256": found},
            )
    return found


def _note_path(path: Path) -> Path:
    import platformdirs

    name = hashlib.sha256(_text(path).encode()).hexdigest()[:32]
    return Path(platformdirs.user_cache_dir("cadran")) / "digests" / f"{name}.json"


def _text(path: Path) -> str:
    """A path that JSON can hold, whatever its bytes are."""
    return os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")


def _forget_missing(notes: Path) -> None:
    """Remove the notes on files that are gone, so that they do not pile up."""
    for note in notes.glob("*.json"):
        try:
            known = Path(read_json(note)["path"]).exists()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            note.unlink(missing_ok=True)


def _noted(note: Path, file: os.stat_result) -> str | None:
    try:
        content = read_json(note)
        if (content["bytes"], content["mtime_ns"]) != (file.st_size, file.st_mtime_ns):
            return None
        found = content["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and is_sha256(found) else None


def _recorded(path: Path, file: os.stat_result) -> str | None:
    """What pulling found, for a model in the folder of pulled models, unless the file was written since."""
    folder = path.parent
    if folder.parent != models_folder():
        return None
    try:
        entry = read_record(folder).files.get(path.name)
        written = (folder / RECORD).stat().st_mtime_ns
    except (UserError, OSError):
        return None
    if entry is None or entry.bytes != file.st_size or file.st_mtime_ns > written or not is_sha256(entry.sha256):
        return None
    return entry.sha256
