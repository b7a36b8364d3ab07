"""A tiny Llama in both formats, with random weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cadran.model.gguf.writer import write_gguf
from cadran.tokenizer.bpe import train_bpe

WIDTH, HIDDEN, LAYERS, VOCABULARY = 32, 64, 2, 320
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def llama_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a Llama with the sizes of `CONFIG`."""
    draw = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        inner = {
            "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 2, WIDTH),
            "self_attn.v_proj": (WIDTH // 2, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
            "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inner.items()}
    return {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def make_folder(folder: Path, shards: int = 1, card: str = "---\nlicense: mit\n---\n# A model\n") -> Path:
    """A Hugging Face directory of a tiny Llama with tokenizer and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = llama_weights()
    names = list(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
        for shard in set(places.values()):
            save_file({name: weights[name] for name in names if places[name] == shard}, folder / shard)
        total = sum(array.nbytes for array in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text(card)
    tokenizer = train_bpe(["In summer the river is calm and the tools are put away."] * 4, VOCABULARY)
    tokenizer.save(folder, chat=True)
    assert tokenizer.vocabulary_size <= VOCABULARY
    return folder


def make_gguf(path: Path, architecture: str = "llama") -> Path:
    """A GGUF file of the same sizes, with a few keys of a tokenizer."""
    metadata = {
        "general.architecture": architecture,
        "general.license": "apache-2.0",
        f"{architecture}.context_length": 64,
        f"{architecture}.embedding_length": WIDTH,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.feed_forward_length": HIDDEN,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{number}" for number in range(VOCABULARY)],
        "tokenizer.chat_template": "{% for tool in tools %}{{ tool }}{% endfor %}",
    }
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip

    def renamed(name: str) -> str:
        for old, new in names.items():
            name = name.replace(old, new)
        return name

    tensors = ((renamed(name), array, "Q8_0" if array.ndim > 1 else "F32") for name, array in llama_weights().items())
    write_gguf(path, metadata, tensors)
    return path


def sha256(content: bytes) -> str:
    """Hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
