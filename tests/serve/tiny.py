"""A very small chat model, made here: random weights, real tokenizer, real chat template."""

from pathlib import Path

import torch

from cadran.model.checkpoint import save_model
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "L'été, la rivière est calme et personne ne pêche.",
    "In summer the river is calm; nobody fishes. def add(a, b): return a + b",
    '😀 ça va ? {"name": "add", "arguments": {"a": 1, "b": 2}}',
] * 4


def tiny_tokenizer() -> Tokenizer:
    """Byte-level, 360 tokens, with the special tokens of the models trained here."""
    return train_bpe(TEXTS, 360)


def tiny_model(folder: Path, *, chat: bool = True, context: int = 512, seed: int = 0, layers: int = 2) -> Path:
    """Write a model folder that the native core and torch both open.

    Args:
        folder: need not exist.
        chat: whether a chat template is stored.
        context: tokens.
        seed: of the weights.
        layers: of the model; more make it slower.
    """
    tokenizer = tiny_tokenizer()
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=layers, width=64, heads=2, kv_heads=1, head_width=32, hidden=128,
        context=context, tied=True,
    )  # fmt: skip
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(
        model.eval(),
        folder,
        end_of_text=tokenizer.end_of_text,
        pad=tokenizer.pad,
        eos=[tokenizer.im_end, tokenizer.end_of_text],
    )
    tokenizer.save(folder, chat=chat)
    return folder
