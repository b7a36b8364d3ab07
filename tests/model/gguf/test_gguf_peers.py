"""Our GGUF files before `transformers`: its own GGUF reader finds the weights, and it computes the same from ours."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_checkpoints import CHECKPOINTS, exported

from cadran.model.gguf.translate import GgufModel

ONE_OF_EACH = [name for name in CHECKPOINTS if " " not in name or name in ("llama 3.2", "llama yarn", "phi3 longrope")]
READ_BY_OTHERS = ("llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "phi3", "gpt2")
"""What the GGUF reader of `transformers` knows, too."""


def opened(folder, **arguments):
    """A model as `transformers` opens it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments).eval()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_transformers_computes_the_same_from_what_comes_back(name, tmp_path):
    path, _, _ = exported(name, tmp_path)
    back = tmp_path / "back"
    back.mkdir()
    with GgufModel.open(path) as model:
        save_file({key: value.float() for key, value in model.weights()}, back / "model.safetensors", {"format": "pt"})
        (back / "config.json").write_text(json.dumps({**model.config, "torch_dtype": "float32"}), encoding="utf-8")
    original = opened(tmp_path / "checkpoint")
    ids = torch.arange(3, 45)[None]  # longer than the windows and the original contexts
    with torch.no_grad():
        assert torch.equal(original(ids).logits, opened(back)(ids).logits)
    if name in READ_BY_OTHERS:
        read = opened(tmp_path, gguf_file=path.name, config=original.config).state_dict()
        for key, tensor in original.state_dict().items():
            assert torch.equal(read[key], tensor), key
