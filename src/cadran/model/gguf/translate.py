"""A GGUF file as a Hugging Face checkpoint, and a checkpoint as a GGUF file.

Both sides are those of llama.cpp's converter: the same keys, the same names, the same order of the numbers within a
tensor. The tables are in `architectures`, `metadata`, `names` and `rope_keys`. Opening a file reads no weight, and
torch is imported with the first one.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.families import FAMILIES, family_of, read_config
from cadran.model.gguf.architectures import Architecture, architecture_named, architecture_of
from cadran.model.gguf.encoded import Encoded
from cadran.model.gguf.header import shown
from cadran.model.gguf.layouts import RotaryPairs, Same, Transposed
from cadran.model.gguf.metadata import architecture_fields, read_keys, write_keys
from cadran.model.gguf.places import Place, places
from cadran.model.gguf.quantization import BLOCKS
from cadran.model.gguf.reader import GgufFile, GgufTensor
from cadran.model.gguf.rope_keys import ROPE_TENSORS, write_rope_tensors
from cadran.model.gguf.token_ids import read_token_ids, write_token_ids
from cadran.model.gguf.writer import write_gguf

if TYPE_CHECKING:
    from torch import Tensor

FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7}
"""Kinds of export and their ``general.file_type``."""
_FURTHER_FILE_TYPES = {"q4_1": 3}  # of blocks that are made elsewhere
_QUANTIZATION_VERSION = 2
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}  # of `torch_dtype`; all other kinds become float32
_KEPT_WHOLE = re.compile(r"blk\.\d+\.ffn_gate_inp\.weight|position_embd\.weight|.*_norm\.weight|.*(?<!\.weight)")
"""Tensors that are float32 in every file: llama.cpp computes with them as they are."""
_LARGEST_HALF = 65_504.0
_OUTSIDE = ("token_embd.weight", "output.weight")


class GgufModel:
    """An open GGUF file that answers as a Hugging Face checkpoint does; a context manager.

    Attributes:
        file: the container, with every tensor as it is stored.
        metadata: of the file; the tokenizer is in it.
        config: content of ``config.json``.
    """

    def __init__(self, file: GgufFile) -> None:
        """Translate and check the metadata of an open file; `open` is the way in."""
        self.file, self.metadata = file, file.metadata
        architecture = architecture_named(file.metadata.get("general.architecture"))
        family, content = _read_content(architecture, file)
        model = _checked(read_config({"model_type": family} | content), str(file.path))
        self._places = _checked_places(architecture, model, file)
        stored = _DTYPES.get(file.tensors["token_embd.weight"].kind, "float32")
        ids = read_token_ids(file.metadata, model.vocabulary) | {"torch_dtype": stored}
        self.config: dict[str, Any] = FAMILIES[family].to_huggingface(model, ids)

    @classmethod
    def open(cls, path: Path) -> "GgufModel":
        """Open a file; no weight is read.

        Raises:
            UserError: the file is damaged, its architecture is not known, or its tensors do not fit its metadata.
        """
        file = GgufFile.open(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def weight_names(self) -> list[str]:
        """Names of the checkpoint's tensors, in the order of `weights`."""
        return [name for place in self._places for name in place.checkpoint()]

    def weights(self) -> Iterator[tuple[str, "Tensor"]]:
        """The checkpoint's tensors one by one, in memory of their own.

        Yields:
            Name and tensor: float16 or bfloat16 where the file stores that, else float32. Norms of Gemma are float32.

        Raises:
            UserError: a tensor is stored as a kind that Cadran does not decode.
        """
        for place in self._places:
            parts = [_tensor(self.file.tensors[name]) for name in place.gguf]
            yield from zip(place.checkpoint(), place.layout.to_checkpoint(parts), strict=True)

    def kinds(self) -> Iterator[tuple[str, str]]:
        """Names of the checkpoint's tensors and the kind as which the file stores each ("Q4_0", "F16")."""
        for place in self._places:
            for name in place.checkpoint():
                yield name, self.file.tensors[place.gguf[0]].kind

    def blocks(self) -> Iterator[tuple[str, Encoded, bool]]:
        """Quantised matrices as they are stored, where the way to the checkpoint moves whole rows at most.

        Yields:
            Name, blocks, and whether they are those of the transposed tensor.
        """
        for place in self._places:
            stored = self.file.tensors[place.gguf[0]]
            if len(place.gguf) > 1 or place.count > 1 or len(stored.shape) != 2 or stored.kind not in BLOCKS:
                continue
            if type(place.layout) not in (Same, RotaryPairs, Transposed) or BLOCKS[stored.kind][0] == 1:
                continue
            rows = np.frombuffer(stored.data, np.uint8).reshape(stored.shape[0], -1)
            turned = isinstance(place.layout, Transposed)
            moved = rows if turned else next(iter(place.layout.to_checkpoint([rows])))  # type: ignore[list-item]
            yield next(iter(place.checkpoint())), Encoded(stored.kind, np.array(moved)), turned

    def close(self) -> None:
        """Give the file back; tensors that were yielded stay."""
        self.file.close()

    def __enter__(self) -> "GgufModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def export_gguf(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, "Tensor"],
    tokenizer_metadata: Mapping[str, Any],
    kind: str,
    name: str,
    licence: str | None = None,
    encoded: Mapping[str, Encoded] | None = None,
) -> None:
    """Write a checkpoint as a GGUF file that llama.cpp opens; one tensor is in memory at once.

    Matrices are stored as ``kind``, norms and biases and routers as float32, rows that do not divide into blocks of 32
    as float16, and in a q4_0 file the embedding and the output head as q8_0.

    Args:
        path: of the file, replaced when it exists.
        config: content of ``config.json``.
        weights: the checkpoint's tensors by their names on disk; each is asked for once.
        tokenizer_metadata: the ``tokenizer.*`` keys.
        kind: one of `FILE_TYPES`.
        name: of the model, for ``general.name``.
        licence: SPDX name, for ``general.license``.
        encoded: blocks that are made already, by the names on disk; they are written as they are, whatever ``kind``,
            and the one that most of them have gives ``general.file_type``.

    Raises:
        UserError: an unknown kind or family, a model that llama.cpp would compute otherwise, or weights that are
            missing, unknown, of another shape, or too large for their kind.
    """
    if kind not in FILE_TYPES:
        raise UserError(f"{kind[:60]!r} is no kind of GGUF file; choose one of {', '.join(FILE_TYPES)}")
    family, model = family_of(config), read_config(config)
    architecture = architecture_of(family.name)
    architecture.refuse_beyond_limits(model)
    pieces = tokenizer_metadata.get("tokenizer.ggml.tokens")
    if pieces is not None and len(pieces) != model.vocabulary:
        raise UserError(
            f"the tokenizer has {len(pieces)} pieces and the model {model.vocabulary}, which llama.cpp does not open; "
            "export the tokenizer that belongs to the model"
        )
    metadata: dict[str, Any] = {"general.architecture": architecture.name, "general.type": "model"}
    metadata |= {"general.name": name} | ({"general.license": licence} if licence else {})
    metadata |= {"general.file_type": _file_type(kind, encoded), "general.quantization_version": _QUANTIZATION_VERSION}
    keys = write_keys(architecture.keys, family.write(model)) | {"vocab_size": model.vocabulary}
    architecture.write(model, keys)
    metadata |= {f"{architecture.name}.{key}": value for key, value in keys.items()}
    metadata |= dict(tokenizer_metadata) | write_token_ids(config, tokenizer_metadata)
    wanted = list(places(architecture.rules, model))
    _refuse_other_names(wanted, weights, model, family.ignored)
    write_gguf(path, metadata, _stored(wanted, weights, model, architecture, kind, encoded or {}))


def _read_content(architecture: Architecture, file: GgufFile) -> tuple[str, dict[str, Any]]:
    """Family and fields of ``config.json`` that the metadata say."""
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise UserError(f"{file.path} is one of several parts of a model; join them with llama-gguf-split --merge")
    fields = architecture_fields(file.metadata, architecture.name, str(file.path))
    # Before anything has one entry for each layer: every layer has tensors, so a larger count is a lie.
    if not 0 < fields.integer("block_count") <= len(file.tensors):
        raise UserError(
            f"{file.path} claims {fields.integer('block_count')} layers and has {len(file.tensors)} tensors; "
            "fetch it with `cadran pull`, or copy it again"
        )
    content = read_keys(architecture.keys, fields)
    architecture.read(content, fields, file.tensors)
    if "token_embd.weight" not in file.tensors:
        raise UserError(f"{file.path} lacks the tensor token_embd.weight; choose a file that holds a whole model")
    content["vocab_size"] = _vocabulary(file, fields.content)
    content["tie_word_embeddings"] = "output.weight" not in file.tensors
    return architecture.family(fields, file.tensors), content


def _vocabulary(file: GgufFile, content: Mapping[str, Any]) -> int:
    """Rows of the embedding: as many as there are pieces, or as the metadata say, or as the tensor has."""
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(pieces, list):
        return len(pieces)
    said = content.get("vocab_size")
    return said if type(said) is int else file.tensors["token_embd.weight"].shape[0]


def _checked(model: ModelConfig, where: str) -> ModelConfig:
    """The same model, if its experts can be chosen."""
    experts = model.experts
    if experts is None:
        return model
    groups, best = experts.groups or 1, 2 if experts.group_score == "top2" else 1
    possible = 0 < experts.active <= experts.count and experts.active_groups <= groups
    if not possible or experts.count % groups or experts.count // groups < best:
        raise UserError(
            f"{where} picks {experts.active} of {experts.count} experts in {experts.groups} groups, which cannot be; "
            "fetch or export the model again"
        )
    return model


def _checked_places(architecture: Architecture, model: ModelConfig, file: GgufFile) -> list[Place]:
    """Every tensor of the model, present and of its shape, and none besides."""
    found: list[Place] = []
    known: set[str] = set(ROPE_TENSORS)
    for place in places(architecture.rules, model, file.tensors):
        for name, shape in zip(place.gguf, place.gguf_shapes, strict=True):
            if name not in file.tensors:
                raise UserError(f"{file.path} lacks the tensor {name}; fetch it with `cadran pull`, or copy it again")
            if file.tensors[name].shape != shape:
                raise UserError(
                    f"the tensor {name} in {file.path} has the shape {file.tensors[name].shape} and the metadata say "
                    f"{shape}; fetch it with `cadran pull`, or copy it again"
                )
        known.update(place.gguf)
        found.append(place)
    if unknown := sorted(file.tensors.keys() - known):
        raise UserError(
            f"{file.path} has {len(unknown)} tensors that the architecture {architecture.name} has not in Cadran, "
            f"{shown(unknown[0])} for one; pick another model"
        )
    return found


def _tensor(stored: GgufTensor) -> "Tensor":
    """A tensor in memory of its own: 16-bit numbers as they are, everything else in float32."""
    import torch

    if stored.kind not in _DTYPES:
        return torch.from_numpy(stored.dequantised())
    dtype = torch.float16 if stored.kind == "F16" else torch.bfloat16
    return torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)


def _refuse_other_names(wanted: list[Place], weights: Mapping[str, "Tensor"], model: ModelConfig, ignored: str) -> None:
    """Stop before anything is written when a tensor is missing or nobody knows where it belongs."""
    names = {_source(name, weights) for place in wanted for name in place.checkpoint()}
    if missing := sorted(names - weights.keys()):
        raise UserError(f"the model has no weights {missing[0]} ({len(missing)} missing); export or fetch it again")
    allowed = ignored + (r"|lm_head\.weight" if model.tied else "")
    for name in sorted(weights.keys() - names):
        # Layers behind DeepSeek-V3's last one predict further tokens and are no part of the model that answers.
        layer = re.match(r"model\.layers\.(\d+)\.", name) if model.family == "deepseek_v3" else None
        if not re.fullmatch(allowed, name) and (layer is None or int(layer[1]) < model.layers):
            raise UserError(f"the weights {shown(name)} have no place in a GGUF file of this model; remove them")


def _source(name: str, weights: Mapping[str, "Tensor"]) -> str:
    """The name under which a checkpoint has a tensor: where only the inner model was saved, the prefix is missing."""
    bare = name.removeprefix("transformer.").removeprefix("model.")
    return bare if name not in weights and bare in weights else name


def _file_type(kind: str, encoded: Mapping[str, Encoded] | None) -> int:
    sizes: dict[str, int] = {}
    for blocks in (encoded or {}).values():
        sizes[blocks.kind] = sizes.get(blocks.kind, 0) + blocks.rows.size
    most = max(sizes, key=lambda name: sizes[name], default=kind).lower()
    return (FILE_TYPES | _FURTHER_FILE_TYPES)[most]


def _stored(
    wanted: list[Place],
    weights: Mapping[str, "Tensor"],
    model: ModelConfig,
    architecture: Architecture,
    kind: str,
    encoded: Mapping[str, Encoded],
) -> Iterator[tuple[str, NDArray[np.float32] | Encoded, str]]:
    """Name, content and kind of the file's tensors, one at a time."""
    if model.rope is not None:
        width = model.latent.rotary if model.latent else model.head_width
        for name, divisors in write_rope_tensors(model.rope, width, model.context):
            yield name, divisors, "F32"
    for place in wanted:
        if any(name in encoded for name in place.checkpoint()):
            yield from _blocks(place, encoded)
            continue
        parts = (_weight(weights, name, place) for name in place.checkpoint())
        for name, part in zip(place.gguf, place.layout.to_gguf(parts), strict=True):
            array = part.detach().cpu().float().contiguous().numpy()
            yield name, array, _fitting_kind(name, array, kind)
            if architecture.head_needed and model.tied and name == "token_embd.weight":
                yield "output.weight", array, _fitting_kind("output.weight", array, kind)


def _blocks(place: Place, encoded: Mapping[str, Encoded]) -> Iterator[tuple[str, Encoded, str]]:
    """Tensors of the file whose blocks are there; layouts move rows, of weights or of their bytes."""
    import torch

    parts = [encoded[name] for name in place.checkpoint()]
    if len(kinds := {part.kind for part in parts}) > 1:
        raise ValueError(f"{place.gguf[0]} is one tensor and cannot be {' and '.join(sorted(kinds))}")
    moved = place.layout.to_gguf([torch.from_numpy(part.rows) for part in parts])
    for name, rows, shape in zip(place.gguf, moved, place.gguf_shapes, strict=True):
        blocks = Encoded(parts[0].kind, rows.contiguous().numpy())
        if blocks.shape != shape:
            raise ValueError(f"the blocks of {name} have the shape {blocks.shape}, not {shape}")
        yield name, blocks, blocks.kind


def _weight(weights: Mapping[str, "Tensor"], name: str, place: Place) -> "Tensor":
    weight = weights[_source(name, weights)]
    if tuple(weight.shape) != place.checkpoint_shape:
        raise UserError(
            f"the weights {name} have the shape {tuple(weight.shape)} and config.json says {place.checkpoint_shape}; "
            "export or fetch the model again"
        )
    return weight


def _fitting_kind(name: str, array: NDArray[np.float32], kind: str) -> str:
    """How a tensor is stored in a file of that kind."""
    if array.ndim <= 1 or _KEPT_WHOLE.fullmatch(name):
        return "F32"
    if kind == "f16" or array.shape[-1] % 32:
        if not np.abs(array).max() <= _LARGEST_HALF:
            raise UserError(f"the weights {name} are too large for float16; train or fetch the model again")
        return "F16"
    return "Q8_0" if name in _OUTSIDE else kind.upper()
