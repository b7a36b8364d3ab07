"""A tiny trained model in llama2.c's format, brought into a Hugging Face directory, goes on as its makers say."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.files import write_json
from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

DATA = Path(os.environ.get("CADRAN_DATA", Path(__file__).parents[3] / "shared" / "data")) / "stories260K"


def read_weights(path: Path) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """The model of a llama2.c file as configuration and weights of the Llama family."""
    content = path.read_bytes()
    width, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", content)
    numbers = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy())
    head_width, place = width // heads, 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return numbers[place - size : place].view(*shape)

    def half_turned(weight: torch.Tensor) -> torch.Tensor:
        """Rows of pairs (2i, 2i + 1) brought to (i, i + half)."""
        return weight.view(-1, head_width // 2, 2, width).transpose(1, 2).reshape(weight.shape)

    weights = {"model.embed_tokens.weight": take(vocabulary, width)}
    stacks = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (kv_heads * head_width, width),
        "self_attn.v_proj": (kv_heads * head_width, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
        "mlp.up_proj": (hidden, width),
    }
    for name, shape in stacks.items():
        for layer, weight in enumerate(take(layers, *shape)):
            turned = name.endswith(("q_proj", "k_proj"))
            weights[f"model.layers.{layer}.{name}.weight"] = half_turned(weight) if turned else weight
    weights["model.norm.weight"] = take(width)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": context, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return config, {name: weight.contiguous() for name, weight in weights.items()}


def read_vocabulary(path: Path, size: int) -> dict[str, object]:
    """The vocabulary of a llama2.c file as the keys of a GGUF one."""
    content, place = path.read_bytes(), 4
    tokens, scores = [], []
    for _ in range(size):
        score, length = struct.unpack_from("<fi", content, place)
        tokens.append(content[place + 8 : place + 8 + length].decode().replace(" ", "▁"))
        scores.append(score)
        place += 8 + length
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (size - 259)
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip


@pytest.mark.skipif(not DATA.is_dir(), reason="stories260K is not beside the checkout (CADRAN_DATA names its folder)")
def test_stories260k_continues_once_upon_a_time(tmp_path: Path) -> None:
    config, weights = read_weights(DATA / "stories260K.bin")
    serialised, configuration = tokenizer_from_gguf(
        read_vocabulary(DATA / "tok512.bin", len(weights["model.embed_tokens.weight"]))
    )
    save_file(weights, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "tokenizer_config.json", configuration)
    (tmp_path / "tokenizer.json").write_text(serialised, encoding="utf-8")
    events = Engine.load(tmp_path).generate("Once upon a time", SamplingParams(temperature=0, max_tokens=48))
    assert "".join(event.text for event in events).startswith(
        ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
    )
