"""A model on disk: a Hugging Face directory (``config.json``, ``model.safetensors``, ``generation_config.json``).

Tokenizer files and the card are written beside these by whoever has them. Weights are float32 safetensors in the
order of the state dict, so equal weights are equal bytes. Nothing is ever unpickled.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cadran.errors import UserError
from cadran.files import read_json, write_bytes, write_json
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer


def save_model(model: Transformer, folder: Path, *, end_of_text: int, pad: int, eos: list[int]) -> None:
    """Write a model that ``transformers.AutoModelForCausalLM`` opens unmodified.

    Args:
        model: its weights are written in float32; a tied head is written once, under the embedding's name.
        folder: created when absent.
        end_of_text: id that begins and ends documents.
        pad: padding id.
        eos: ids at which generation stops.
    """
    config: dict[str, Any] = model.config.to_huggingface(end_of_text=end_of_text, pad=pad, eos=eos)
    weights = {name: parameter.detach().float().contiguous() for name, parameter in model.named_parameters()}
    # torch.save-free and in one piece: the file appears whole or not at all.
    write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": end_of_text, "do_sample": True, "eos_token_id": eos, "pad_token_id": pad, "temperature": 0.8,
         "top_p": 0.95},
    )  # fmt: skip


def load_model(folder: Path) -> Transformer:
    """Open a model directory.

    Raises:
        UserError: the folder is no model, its weights are damaged, or they do not fit its configuration.
    """
    try:
        config = ModelConfig.from_huggingface(read_json(folder / "config.json"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} is not a model directory ({error}); give a run such as quickstart, or a folder"
        ) from error
    try:
        weights = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights in {folder} cannot be read ({error}); make or copy them again") from error
    model = Transformer(config)
    parameters = dict(model.named_parameters())
    weights.pop("lm_head.weight", None) if config.tied else None
    missing, unknown = parameters.keys() - weights.keys(), weights.keys() - parameters.keys()
    if missing or unknown:
        name = min(missing or unknown)
        raise UserError(
            f"model.safetensors in {folder} does not fit its config.json at {name}; make or copy them again"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise UserError(
                    f"{name} in {folder} has shape {tuple(weights[name].shape)} and config.json says "
                    f"{tuple(parameter.shape)}; make or copy them again"
                )
            parameter.copy_(weights[name])
    return model.eval()
