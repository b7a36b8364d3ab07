"""What a model's files say before any weight is read: configuration, tensors, tokenizer, licence.

One shape for both formats, so that the catalogue and the inspection need not know which it is. No torch.
"""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.library.tokenizer_facts import TokenizerFacts, facts_of_folder, facts_of_gguf
from cadran.model.config import ModelConfig
from cadran.model.families import read_config, read_content
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.weight_files import weight_files


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor as it is stored.

    Attributes:
        name: in the file.
        kind: ``F32``, ``BF16``, ``Q4_0`` and so on.
        shape: outermost axis first.
        bytes: in the file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """A model without its weights.

    Attributes:
        path: the folder or file.
        format: ``safetensors`` or ``gguf``.
        architecture: its ``model_type``, or the name in the GGUF file when it is not known here.
        config: content of ``config.json``; empty for a GGUF file of an unknown architecture.
        sizes: None when the architecture is not known here.
        unknown: why ``sizes`` is None, one sentence.
        tensors: in the order of the files.
        tokenizer: what it can do.
        licence: as the files name it.
        context: tokens, when somebody says.
    """

    path: Path
    format: str
    architecture: str
    config: dict[str, Any]
    sizes: ModelConfig | None
    unknown: str | None
    tensors: tuple[TensorHeader, ...]
    tokenizer: TokenizerFacts
    licence: str | None
    context: int | None

    @property
    def parameters(self) -> int:
        """Of all tensors."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Of all tensors in the files."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def kind(self) -> str:
        """The kind in which most parameters are stored."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.kind] = counts.get(tensor.kind, 0) + tensor.parameters
        return max(counts, key=lambda kind: counts[kind], default="nothing")


def read_header(path: Path) -> ModelHeader:
    """Open a model directory or a GGUF file and read everything but the weights.

    Raises:
        UserError: it is no model, or a file is damaged.
    """
    return _gguf_header(path) if path.is_file() else _folder_header(path)


def _folder_header(folder: Path) -> ModelHeader:
    config = read_content(folder)
    tensors: dict[str, TensorHeader] = {}
    for path in weight_files(folder):
        with SafetensorsFile(path) as file:
            for name, entry in file.entries.items():
                if name in tensors:
                    raise UserError(f"{name[:80]} stands in two of the files in {folder}: fetch the model again")
                tensors[name] = TensorHeader(name, entry.kind, entry.shape, entry.stop - entry.start)
    sizes, unknown = _sizes(config, len(tensors))
    return ModelHeader(
        folder, "safetensors", _text(config.get("model_type")), config, sizes, unknown, tuple(tensors.values()),
        facts_of_folder(folder), _card_licence(folder), _context(sizes, config.get("max_position_embeddings")),
    )  # fmt: skip


def _gguf_header(path: Path) -> ModelHeader:
    from cadran.model.gguf.reader import GgufFile
    from cadran.model.gguf.translate import GgufModel

    with GgufFile.open(path) as file:
        metadata = file.metadata
        tensors = tuple(TensorHeader(t.name, t.kind, t.shape, len(t.data)) for t in file.tensors.values())
        config: dict[str, Any] = {}
        try:
            config = GgufModel(file).config
            sizes, unknown = _sizes(config, len(tensors))
        except UserError as error:
            sizes, unknown = None, str(error)
    architecture, licence = _text(metadata.get("general.architecture")), metadata.get("general.license")
    return ModelHeader(
        path, "gguf", _text(config.get("model_type", architecture)), config, sizes, unknown, tensors,
        facts_of_gguf(metadata), licence if isinstance(licence, str) else None,
        _context(sizes, metadata.get(f"{architecture}.context_length")),
    )  # fmt: skip


def _sizes(config: dict[str, Any], tensors: int) -> tuple[ModelConfig | None, str | None]:
    # A configuration has an entry for each layer, and each layer has tensors: a larger claim is not given memory.
    for field in ("num_hidden_layers", "n_layer"):
        layers = config.get(field)
        if isinstance(layers, int) and layers > tensors:
            return None, f"config.json claims {layers} layers and there are {tensors} tensors: fetch the model again"
    try:
        return read_config(config), None
    except UserError as error:
        return None, str(error)


def _context(sizes: ModelConfig | None, claimed: object) -> int | None:
    if sizes is not None:
        return sizes.context
    return claimed if isinstance(claimed, int) and not isinstance(claimed, bool) else None


def _text(value: object) -> str:
    return value[:80] if isinstance(value, str) else "unknown"


def _card_licence(folder: Path) -> str | None:
    """``license:`` in the front matter of the card."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 14)
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"^license:[ \t]*['\"]?([\w.+-]{1,60})", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
