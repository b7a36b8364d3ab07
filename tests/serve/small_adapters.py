"""Small LoRA adapters, made here, and what a server says with them."""

from pathlib import Path

import httpx
import torch
from live import LiveServer

from cadran.model.checkpoint import load_model
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.lora_files import save_adapter


def small_adapter(model: Path, folder: Path, seed: int, *, dora: bool = False) -> Path:
    """Write an adapter that changes what a model says.

    Args:
        model: folder of the model that it is for.
        folder: need not exist.
        seed: of its numbers.
        dora: whether it has a part that the native core does not share.
    """
    transformer = load_model(model)
    add_adapter(transformer, LoraConfig(rank=2, dora=dora), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in transformer.named_parameters():
            if "lora_B" in path:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    save_adapter(transformer, folder)
    return folder


def said(live: LiveServer, model: str, prompt: str = "La rivière", **fields: object) -> str:
    """What a model answers, the likeliest words."""
    asked = {"model": model, "prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True, **fields}
    answer = httpx.post(f"{live.url}/v1/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])
