"""Where pulled models live, and which file or folder a name means."""

import os
import re
from pathlib import Path

from cadran.errors import UserError
from cadran.library.record import RECORD

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")
PULLING = ".pulling"
"""End of the name of the hidden folder in which a model is being fetched."""


def models_folder() -> Path:
    """Where pulled models live: ``models`` in ``CADRAN_HOME``, or in the user's data directory of this system."""
    home = os.environ.get("CADRAN_HOME")
    if home:
        return Path(home).expanduser() / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("cadran")) / "models"


def is_name(text: str) -> bool:
    """Whether a text can name a model: letters, digits, ``.``, ``_``, ``-``, so that it is one visible folder."""
    return _NAME.fullmatch(text) is not None


def checked_name(text: str) -> str:
    """The text, when it can name a model.

    Raises:
        UserError: it cannot.
    """
    if not is_name(text):
        raise UserError(
            f"{text[:100]!r} cannot name a model: give a name of letters, digits, '.', '_' and '-' with --name"
        )
    return text


def find_pulled(name: str) -> Path | None:
    """The folder with ``config.json``, or the ``.gguf`` file, of a pulled model; None when there is none of that name.

    Raises:
        UserError: its files are gone.
    """
    folder = models_folder() / name
    if not is_name(name) or not (folder / RECORD).is_file():
        return None
    found = model_path(folder)
    if found is None:
        raise UserError(f"the files of {name} are gone: type cadran models rm {name}, then pull it again")
    return found


def model_path(folder: Path) -> Path | None:
    """What opens the model that lies in a folder: the folder itself, or its one ``.gguf`` file."""
    if (folder / "config.json").is_file():
        return folder
    files = sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("."))
    return files[0] if len(files) == 1 else None


def pulled_names() -> list[str]:
    """Names of the pulled models, in order."""
    return sorted(path.parent.name for path in models_folder().glob(f"*/{RECORD}") if is_name(path.parent.name))


def unfinished_names() -> list[str]:
    """Names of the models of which a part has been fetched."""
    names = (path.name[1 : -len(PULLING)] for path in models_folder().glob(f".*{PULLING}"))
    return sorted(name for name in names if is_name(name))
