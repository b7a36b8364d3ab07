"""What all sides of an alignment benchmark read: one model, one fresh adapter upon it, the same ids.

Cadran renders and tokenises the rows once; the adapter's first factor is random, so it is drawn once too. With both,
every side computes the same numbers, and their losses can be compared step by step.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cadran.align.branches import Prompted
from cadran.align.data.read import read_rows
from cadran.align.preference import encode_pairs
from cadran.align.rollout import Decode, decoder
from cadran.engine.loading import open_tokenizer
from cadran.errors import UserError
from cadran.files import write_json
from cadran.library.export import export_folder
from cadran.model.checkpoint import load_model
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.lora_files import load_adapter, save_adapter
from cadran.model.transformer import Transformer
from cadran.recipe.run import find_model

RANK, ALPHA, RATE, CLIP = 16, 32.0, 1e-4, 1.0
BETAS, EPSILON = (0.9, 0.999), 1e-10
"""Of AdamW, on every side; the learning rate stays what it is, and nothing is decayed."""

TINY_WORDS = 96
"""Vocabulary of the tiny model, whose tokens are numbers."""


@dataclass(frozen=True, slots=True)
class BenchFiles:
    """A folder for the time of a benchmark.

    Attributes:
        folder: where everything lies.
        tiny: the model is a random one of two layers, whose tokens are numbers.
    """

    folder: Path
    tiny: bool = False

    @property
    def model(self) -> Path:
        """A model directory that ``transformers`` opens."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """A fresh adapter that ``peft`` opens."""
        return self.folder / "adapter"

    @property
    def scratch(self) -> Path:
        """For whatever a side writes."""
        return self.folder / "scratch"

    def items(self) -> list[Prompted]:
        """Prompts with a chosen and a rejected answer."""
        rows = json.loads((self.folder / "items.json").read_text(encoding="utf-8"))
        return [Prompted(tuple(prompt), tuple(tuple(answer) for answer in answers)) for prompt, *answers in rows]

    def decode(self) -> Decode:
        """Ids to text."""
        return (lambda ids: " ".join(map(str, ids))) if self.tiny else decoder(open_tokenizer(self.model)[0])

    def open_model(self, *, adapter: bool = True) -> Transformer:
        """The model in float32, with the adapter to be trained upon it or without."""
        model = load_model(self.model, torch.float32)
        if adapter:
            load_adapter(model, self.adapter, "default", trainable=True)
        return model.eval()


def write_files(folder: Path, model: str, data: Path | None, count: int) -> BenchFiles:
    """Prepare a folder.

    Args:
        folder: empty.
        model: name or path; ignored when ``data`` is None.
        data: preference rows; None takes the tiny model and random ids.
        count: pairs wanted, taken from all along the rows.

    Raises:
        UserError: the model knows no turns, or there are too few rows.
    """
    files = BenchFiles(folder, tiny=data is None)
    if data is None:
        items = _write_tiny(files.model, count)
    else:
        path = find_model(model)
        export_folder(path, files.model, "f32", name=model)
        items = _encoded(files.model, data, count)
    rows = [[item.prompt, *item.answers] for item in items]
    write_json(folder / "items.json", rows)
    opened = files.open_model(adapter=False)
    add_adapter(opened, LoraConfig(rank=RANK, alpha=ALPHA), seed=0)
    save_adapter(opened, files.adapter)
    files.scratch.mkdir()
    return files


def _encoded(model: Path, data: Path, count: int) -> Sequence[Prompted]:
    _, renderer = open_tokenizer(model)
    if renderer is None:
        raise UserError(f"{model} has no chat template; take a model that talks")
    found = encode_pairs(read_rows(data, "preference").pairs, renderer, 1024).prompted
    if len(found) < count:
        raise UserError(f"{data.name} has {len(found)} pairs and {count} are needed; give more, or fewer rounds")
    return [found[index * len(found) // count] for index in range(count)]


def _write_tiny(folder: Path, count: int) -> list[Prompted]:
    """Random weights of two layers, a tokenizer of numbers, and random ids of unlike lengths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=TINY_WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder)
    words = {str(number): number for number in range(TINY_WORDS)}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "0"},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "1", "pad_token": "1", "unk_token": "0"}
    write_json(folder / "tokenizer_config.json", settings)
    draw = random.Random(0)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(2, TINY_WORDS) for _ in range(draw.randint(least, most)))

    return [Prompted(ids(4, 12), (ids(3, 9), ids(3, 9))) for _ in range(count)]
