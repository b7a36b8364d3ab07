"""What may stand in a model's folder: safetensors or GGUF, JSON and plain texts, each known by its content.

Every file is opened before a model counts as pulled. A pickle is refused whatever its name is: opening one can run
code. Nothing here loads weights.
"""

import json
import re
from pathlib import Path

from cadran.errors import UserError
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.weight_files import weight_files

LARGEST_TEXT = 256 << 20
"""Bytes; no tokenizer or card is larger."""

_TEXTS = re.compile(
    r"(README|LICEN[CS]E|NOTICE|USE_POLICY)[A-Za-z0-9._-]*|.*\.(json|jinja|tiktoken)|(merges|vocab)\.txt|tokenizer\.model",
    re.IGNORECASE,
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")


def is_companion(name: str) -> bool:
    """Whether a file beside the weights is kept: configuration, tokenizer, chat template, card, licence."""
    return _TEXTS.fullmatch(name) is not None and not name.endswith("safetensors.index.json")


def vet(folder: Path) -> None:
    """Open every file of a model that has just been fetched.

    Raises:
        UserError: a file is not what its name says, or there is no model among them.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        vet_file(path)
    ggufs = [path for path in paths if path.suffix == ".gguf"]
    if (folder / "config.json").is_file():
        if not isinstance(json.loads((folder / "config.json").read_text(encoding="utf-8")), dict):
            raise UserError("config.json is no object: do not use this model")
        weight_files(folder)
    elif len(ggufs) != 1:
        raise UserError("there is no model in it, neither config.json nor one .gguf file: try another origin")


def vet_file(path: Path) -> None:
    """Open one file and refuse it when it is not what its name says.

    Raises:
        UserError: see above.
    """
    if not path.is_file() or path.is_symlink():
        raise UserError(f"{path.name} is no plain file: do not use this model")
    try:
        if path.suffix == ".safetensors":
            with SafetensorsFile(path):
                pass
        elif path.suffix == ".gguf":
            from cadran.model.gguf.reader import GgufFile

            GgufFile.open(path).close()
        else:
            _vet_text(path)
    except UserError as error:
        if looks_pickled(path):
            raise UserError(
                f"{path.name} is a pickle or zip archive under another name, which can run code when it is opened: "
                "it was refused; do not use this model"
            ) from error
        raise


def looks_pickled(path: Path) -> bool:
    """Whether a file begins as a pickle (protocol 2 or later) or as the zip archive that ``torch.save`` writes."""
    with path.open("rb") as file:
        head = file.read(4)
    return head.startswith(b"PK\x03\x04") or (
        head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1
    )


def only_pickles(names: list[str]) -> UserError | None:
    """The error for a model whose weights lie as pickles only; None when there is none among the names."""
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if not pickles:
        return None
    return UserError(
        f"its weights are in {pickles[0]}, a format that can run code and is never opened here: look for one with "
        "safetensors or GGUF"
    )


def _vet_text(path: Path) -> None:
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise UserError(f"{path.name} has {size:,} bytes, far too many for what it is: do not use this model")
    if looks_pickled(path):
        raise UserError(f"{path.name} is no text")
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read ({str(error)[:80]}): fetch the model again") from error
