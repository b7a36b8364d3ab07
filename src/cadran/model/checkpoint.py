"""A model on disk: a Hugging Face directory (``config.json``, safetensors in one or more files), or a GGUF file.

Tokenizer files and the card are written beside these by whoever has them. What Cadran writes is float32 in the order
of the state dict, so equal weights are equal bytes. Nothing is ever unpickled.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cadran.errors import UserError
from cadran.files import write_bytes, write_json
from cadran.model.config import ModelConfig
from cadran.model.families import FAMILIES, family_of, read_content
from cadran.model.families.family import Family, Stored
from cadran.model.families.fields import Fields
from cadran.model.lora_linear import Adapted
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.transformer import Transformer
from cadran.model.weight_files import SINGLE, weight_files


def save_model(model: Transformer, folder: Path, *, end_of_text: int, pad: int, eos: list[int]) -> None:
    """Write a model that ``transformers.AutoModelForCausalLM`` opens unmodified.

    Args:
        model: its weights are written in float32; a tied head is written once, under the embedding's name.
        folder: created when absent.
        end_of_text: id that begins and ends documents.
        pad: padding id.
        eos: ids at which generation stops.
    """
    ids = {"bos_token_id": end_of_text, "eos_token_id": eos, "pad_token_id": pad}
    family = FAMILIES[model.config.family]
    weights = {name: tensor.float() for name, tensor in stored_weights(model, family)}
    # torch.save-free and in one piece: the file appears whole or not at all.
    write_bytes(folder / SINGLE, save(weights, metadata={"format": "pt"}))
    write_json(folder / "config.json", family.to_huggingface(model.config, ids))
    write_json(folder / "generation_config.json", ids | {"do_sample": True, "temperature": 0.8, "top_p": 0.95})


def stored_weights(model: Transformer, family: Family) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a model as its family's checkpoints have them, detached and contiguous.

    Raises:
        UserError: the model wears an adapter that is not merged.
    """
    if any(isinstance(module, Adapted) for module in model.modules()):
        raise UserError("this model wears an adapter; merge it, or save the adapter alone with save_adapter")
    parameters = dict(model.named_parameters())
    for stored in family.stored(parameters):
        tensor = torch.cat([parameters[name].detach() for name in stored.ours])
        yield stored.name, (tensor.t() if stored.transposed and tensor.ndim == 2 else tensor).contiguous()


def load_model(path: Path, dtype: torch.dtype | None = None) -> Transformer:
    """Open a model.

    Args:
        path: a directory with ``config.json``, or a ``.gguf`` file.
        dtype: of the weights in memory; None keeps what is stored (float32 for quantised ones).

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: it is no model, its architecture is unknown, its weights are damaged or do not fit its configuration.
    """
    if path.is_file():
        return _load_gguf(path, dtype)
    content = read_content(path)
    family = family_of(content)
    with ExitStack() as files:
        found = {name: file for file in _open_shards(path, files) for name in file.entries}
        shapes = {name: file.entries[name].shape for name, file in found.items()}
        return _assemble(
            family, family.read(Fields(content)), shapes, lambda name: found[name].read(name), dtype, path
        )  # fmt: skip


def _load_gguf(path: Path, dtype: torch.dtype | None) -> Transformer:
    from cadran.model.gguf.translate import GgufModel

    with GgufModel.open(path) as source:
        content = source.config
        # One type for all: a file of 16-bit matrices has 32-bit norms.
        weights = {name: tensor.to(dtype or torch.float32) for name, tensor in source.weights()}
    family = family_of(content)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    return _assemble(family, family.read(Fields(content)), shapes, weights.pop, dtype, path)


def _open_shards(folder: Path, files: ExitStack) -> list[SafetensorsFile]:
    """The files that hold the weights, each tensor in one of them only."""
    opened = [files.enter_context(SafetensorsFile(path)) for path in weight_files(folder)]
    seen: set[str] = set()
    for file in opened:
        if double := seen & file.entries.keys():
            raise UserError(f"{min(double)} stands in two of the files in {folder}; fetch the model again")
        seen |= file.entries.keys()
    return opened


def _assemble(
    family: Family,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    read: Any,
    dtype: torch.dtype | None,
    path: Path,
) -> Transformer:
    """A model whose parameters are the tensors of a checkpoint."""
    experts = sum(config.experts.sparse) * config.experts.count if config.experts else 0
    if config.layers + experts > len(shapes):  # before anything of that size is built
        raise UserError(
            f"config.json in {path} speaks of {config.layers} layers and there are {len(shapes)} tensors; "
            "fetch the model again"
        )
    with torch.device("meta"):
        model = Transformer(config)
    parameters = dict(model.named_parameters())
    stored = family.stored(parameters)
    prefix = _missing_prefix(stored, shapes)
    known = {entry.name.removeprefix(prefix) for entry in stored}
    _check_names(family, config, known, shapes.keys(), path)
    state: dict[str, Tensor] = {}
    for entry in stored:
        name = entry.name.removeprefix(prefix)
        rows = [parameters[ours].shape[0] for ours in entry.ours]
        wanted = (sum(rows), *parameters[entry.ours[0]].shape[1:])
        turned = entry.transposed and len(wanted) == 2
        if shapes[name] != (wanted[::-1] if turned else wanted):
            raise UserError(
                f"{name} in {path} has shape {shapes[name]} and config.json says "
                f"{wanted[::-1] if turned else wanted}; make or fetch the model again"
            )
        tensor = read(name)
        if not tensor.is_floating_point():
            raise UserError(f"{name} in {path} holds no fractions ({tensor.dtype}); fetch an unquantised model")
        tensor = tensor.to(dtype or tensor.dtype)
        state |= zip(entry.ours, (tensor.t() if turned else tensor).split(rows), strict=True)
    model.load_state_dict(state, strict=False, assign=True)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def _missing_prefix(stored: list[Stored], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What the names lack when only the inner model was saved: ``transformer.`` or ``model.``, else nothing."""
    first = stored[0].name
    root = first.split(".")[0] + "."
    return root if first not in shapes and first.removeprefix(root) in shapes else ""


def _check_names(family: Family, config: ModelConfig, known: set[str], found: Iterable[str], path: Path) -> None:
    names = set(found)
    ignored = re.compile(family.ignored)
    if missing := known - names:
        raise UserError(
            f"the weights in {path} do not fit config.json at {min(missing)}, which is missing; fetch the model again"
        )
    for name in sorted(names - known):
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        beyond = layer is not None and int(layer[1]) >= config.layers
        if not (ignored.fullmatch(name) or beyond or (config.tied and name.endswith("lm_head.weight"))):
            raise UserError(
                f"the weights in {path} do not fit config.json: it knows no {name[:80]}; fetch the model again"
            )
