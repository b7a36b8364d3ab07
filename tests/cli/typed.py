"""The command as a user types it, and a tiny model to type it on."""

import subprocess
import sys
from pathlib import Path

from cadran.model.checkpoint import save_model
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe

TEXTS = ["L'été, la rivière est calme.", "In summer the river is calm.", '{"river": 17}'] * 4


def cadran(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cadran", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=600, check=False)


def tiny_model(folder: Path, context: int) -> Path:
    """A chat model of a few thousand random parameters."""
    tokenizer = train_bpe(TEXTS, 320)
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=1, width=16, heads=1, kv_heads=1, head_width=16, hidden=32,
        context=context, tied=True,
    )  # fmt: skip
    save_model(Transformer(config, seed=0), folder, end_of_text=tokenizer.end_of_text, pad=tokenizer.pad, eos=[2, 0])
    tokenizer.save(folder, chat=True)
    return folder
