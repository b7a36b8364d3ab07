"""Tiny models and inputs for the tests of quantisation."""

import sys
from pathlib import Path

import torch

from cadran.model.checkpoint import load_model

sys.path[:0] = [str(Path(__file__).parents[1] / "library"), str(Path(__file__).parents[1] / "model" / "gguf")]
from tiny_models import make_folder  # noqa: E402

__all__ = ["correlated", "learn", "make_folder", "tiny_text"]

SENTENCE = "in summer the river is calm and the tools are put away while we walk along its banks until evening"
WORDS = SENTENCE.split(" ")


def correlated(samples: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs of a map as layers give them: few directions carry most, and some channels are large."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width // 4, width, generator=draw)
    large = torch.ones(width)
    large[:: width // 4] = 20.0
    return (torch.randn(samples, width // 4, generator=draw) @ mixing
            + 0.3 * torch.randn(samples, width, generator=draw)) * large  # fmt: skip


def tiny_text(documents: int = 40, seed: int = 0) -> list[str]:
    """Sentences of a few words in random order."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(40, 80, (documents,), generator=draw).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=draw).tolist()) + "." for n in lengths]


def learn(folder: Path, texts: list[str], steps: int = 60) -> None:
    """Train a model directory on texts for a second, so that its weights are not mere noise."""
    from safetensors.torch import save_file

    from cadran.tokenizer.tokenizer import Tokenizer

    model, tokenizer = load_model(folder, torch.float32).train(), Tokenizer.load(folder)
    ids = torch.tensor([token for text in texts for token in tokenizer.encode(text)])
    rows = ids[: len(ids) // 33 * 33].view(-1, 33)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        batch = rows[torch.arange(16) * 7 % len(rows) - step % 5]
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if n != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
