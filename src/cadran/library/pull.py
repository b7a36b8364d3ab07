"""``cadran pull``: fetch a model into its own folder, whole or not at all, and record where it came from."""

from dataclasses import dataclass
from pathlib import Path

from cadran.errors import UserError
from cadran.files import sync_folder
from cadran.library.find import checked_name, model_path, models_folder
from cadran.library.origin import Fetched, Origin
from cadran.library.progress import Progress, silent
from cadran.library.record import RECORD, Record, file_records, foreign_record, read_record
from cadran.library.room import NoRoom
from cadran.library.vetting import vet
from cadran.library.work_folder import discard, finish, work_folder
from cadran.wheel import Unreachable


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is here.

    Attributes:
        path: the folder, or the GGUF file, that opens it.
        record: what its ``cadran.json`` says.
        fresh: whether this call fetched it.
    """

    path: Path
    record: Record
    fresh: bool


def pull(origin: Origin, name: str | None = None, progress: Progress = silent, models: Path | None = None) -> Pulled:
    """Fetch a model, unless it is here already.

    Interrupted, or when the network fails or the disk is full, what has come stays in a hidden folder and the same
    call goes on with it. When the model is refused (wrong hash, a pickle, a damaged file), nothing stays.

    Args:
        origin: where from; see `cadran.library.origin.parse_origin`.
        name: local name; None takes the origin's.
        progress: told what is being done and how many bytes of it.
        models: folder of all models; None means the user's.

    Raises:
        UserError: the model is refused, or the name is taken by another.
        Unreachable: it cannot be fetched now.
    """
    name = checked_name(name or origin.default_name)
    models = models or models_folder()
    target = models / name
    if target.exists() or target.is_symlink():
        return _present(target, name, origin)
    with work_folder(models, name, origin.text) as work:
        try:
            fetched = origin.fetch(work, progress)
            vet(work)
            lineage = foreign_record(work)
            progress("checking", 0, None)
            files = file_records(work, fetched.sha256)
            record = Record(name, origin.text, fetched.revision, _licence(work, fetched), files, lineage)
            record.write(work)
            finish(work)
        except (Unreachable, NoRoom):
            raise
        except UserError:
            discard(work)
            raise
        sync_folder(work)
        work.rename(target)
        sync_folder(models)
    return Pulled(_opened(target), record, True)


def _present(target: Path, name: str, origin: Origin) -> Pulled:
    if not (target / RECORD).is_file():
        raise UserError(f"{target} is in the way and was not pulled: move it, or choose another name with --name")
    record = read_record(target)
    if record.origin != origin.text:
        raise UserError(f"there is another model {name} here, from {record.origin}: choose another name with --name")
    if (damage := record.why_damaged(target)) is not None:
        raise UserError(f"{name} is here and damaged ({damage}): type cadran models rm {name}, then pull it again")
    return Pulled(_opened(target), record, False)


def _opened(target: Path) -> Path:
    path = model_path(target)
    assert path is not None  # `vet` and `why_damaged` have seen to it
    return path


def _licence(folder: Path, fetched: Fetched) -> str | None:
    from cadran.library.header import read_header

    path = model_path(folder)
    return fetched.licence or (read_header(path).licence if path else None)
