"""Training state on disk: atomic, checksummed, never pickled.

A checkpoint is a folder ``step-00000400`` with ``weights.safetensors`` (of what is trained: a frozen base is found
where it came from), ``optimizer.safetensors`` (state of the optimizers, the objective and the random generator) and
``state.json`` (step, what the run is, SHA-256 of both files). It is written under another name and renamed when it is
whole, so a folder with the right name is complete unless the disk failed; that is what the checksums find, and then the
checkpoint before it is used.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.files import read_json, sha256_file, sync_folder, write_json

KEPT = 2
"""Checkpoints left on disk: the newest, and one in case the newest is damaged."""

NAME = re.compile(r"step-(\d{8})")
RANDOM = "random:torch"
EXTRA = "extra:"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a checkpoint gives back.

    Attributes:
        step: the next one to do.
        damaged: a sentence for each damaged checkpoint passed over.
        extra: as it was given to ``save_state``; empty at step 0.
    """

    step: int
    damaged: list[str]
    extra: dict[str, Tensor]


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"{names[parameter]}:{key}"] = torch.as_tensor(value).contiguous()
    return tensors


def save_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    identity: dict[str, Any],
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the state after ``step`` optimizer steps and drop checkpoints older than the last ``KEPT``.

    Args:
        folder: holds the checkpoints of one stage.
        step: steps done.
        model: its trainable parameters are saved in their own type.
        optimizers: their per-parameter state is saved.
        identity: what must be equal for a resume to make sense (recipe, corpus fingerprint); JSON.
        extra: whatever else the training needs to go on.

    Returns:
        The new folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, working = folder / f"step-{step:08d}", folder / ".writing"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    weights = {name: parameter.detach().contiguous() for name, parameter in _trained(model).items()}
    save_file(weights, working / "weights.safetensors")
    tensors = _optimizer_tensors(model, optimizers) | {RANDOM: torch.get_rng_state()}
    tensors |= {f"{EXTRA}{name}": tensor.detach().contiguous() for name, tensor in (extra or {}).items()}
    save_file(tensors, working / "optimizer.safetensors")
    sums = {name: sha256_file(working / name) for name in ("weights.safetensors", "optimizer.safetensors")}
    write_json(working / "state.json", {"step": step, "identity": identity, "sha256": sums})
    for name in sums:
        with (working / name).open("rb+") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    working.rename(final)
    sync_folder(folder)
    for old in _checkpoints(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name)), reverse=True)


def load_state(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], identity: dict[str, Any]
) -> TrainingState:
    """Fill model, optimizers and generator from the newest whole checkpoint that belongs to this training.

    Returns:
        Step 0 when there is none.

    Raises:
        UserError: every checkpoint there is, is damaged; starting again silently would lose work unseen.
    """
    damaged: list[str] = []
    for checkpoint in _checkpoints(folder):
        try:
            about = read_json(checkpoint / "state.json")
            if about["identity"] != identity:
                # Of another recipe or corpus: it can never be resumed, and its step number would shadow ours.
                shutil.rmtree(checkpoint, ignore_errors=True)
                continue
            for name, expected in about["sha256"].items():
                if sha256_file(checkpoint / name) != expected:
                    raise ValueError(f"{name} has another sha256 than state.json says")
            weights = load_file(checkpoint / "weights.safetensors")
            tensors = load_file(checkpoint / "optimizer.safetensors")
        except (OSError, ValueError, KeyError, json.JSONDecodeError, SafetensorError) as error:
            damaged.append(f"checkpoint {checkpoint.name} is damaged ({error})")
            continue
        found = {key: tensors.pop(key) for key in list(tensors) if key.startswith(EXTRA)}
        _restore(model, optimizers, weights, tensors)
        extra = {key.removeprefix(EXTRA): tensor for key, tensor in found.items()}
        return TrainingState(int(about["step"]), damaged, extra)
    if damaged:
        raise UserError(
            f"{'; '.join(damaged)}, and no earlier one is left; delete the folder {folder.name} in "
            f"{folder.parent.name} and run the same command to train this stage again"
        )
    return TrainingState(0, [], {})


def _restore(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], weights: dict[str, Tensor], tensors: dict[str, Tensor]
) -> None:
    parameters = _trained(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    torch.set_rng_state(tensors.pop(RANDOM))
    owner = {
        parameter: optimizer for optimizer in optimizers for g in optimizer.param_groups for parameter in g["params"]
    }
    for key, value in tensors.items():
        name, field = key.rsplit(":", 1)
        owner[parameters[name]].state[parameters[name]][field] = value
