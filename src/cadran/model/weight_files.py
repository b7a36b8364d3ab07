"""The safetensors files that hold a model's weights: one, or the shards that an index names."""

from pathlib import Path, PurePosixPath

from cadran.errors import UserError
from cadran.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a model directory, in order of their names.

    Raises:
        UserError: there is none, one is missing, or the index names files elsewhere.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} holds no {SINGLE}: give a folder with the weights as safetensors")
    paths = [folder / name for name in shard_names(folder / INDEX)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{folder} lacks {path.name}, which holds a part of the weights: fetch the model again")
    return paths


def shard_names(index: Path) -> list[str]:
    """The files that an index names, each once, in order.

    Raises:
        UserError: it is damaged, or names something that is no plain safetensors file beside it.
    """
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        plain = all(is_plain(name) and name.endswith(".safetensors") for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} cannot be read ({str(error)[:80]}): fetch the model again") from error
    if not plain or not names:
        raise UserError(f"{index} names files that are no safetensors beside it: do not use this model")
    return names


def is_plain(name: str) -> bool:
    """Whether a name is that of a visible file in the same folder, on every system."""
    return (
        0 < len(name) <= 200
        and PurePosixPath(name).name == name
        and not name.startswith((".", "~"))
        and all(letter.isprintable() and letter not in '\\/:*?"<>|' for letter in name)
    )
