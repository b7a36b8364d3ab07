"""The models of the speed benchmarks: random weights from a seed, so that nothing has to be fetched but a tokenizer.

Speed does not ask what the weights say, only how many there are. Each model is made once, as a Hugging Face directory
and as GGUF files of our own exporter, and kept in the user's cache folder.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from cadran.files import write_json, write_text

CACHE = Path(platformdirs.user_cache_dir("cadran")) / "benchmarks"
KINDS = ("q8_0", "q4_0", "q4_0-pure")
"""Of GGUF files; q4_0 keeps the embedding, which is also the head, as q8_0, and the pure one stores it as q4_0."""

_SEED = 20261122
_SPREAD = 0.02  # of the weights: activations stay near 1, logits finite


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama with the embedding as its head and heads of 64."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    context: int = 8192

    def config(self) -> dict[str, Any]:
        """Content of ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
            "vocab_size": self.vocabulary, "hidden_size": self.width, "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "head_dim": 64,
            "num_key_value_heads": self.kv_heads, "max_position_embeddings": self.context, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 1e5, "tie_word_embeddings": True, "attention_bias": False,
            "mlp_bias": False, "initializer_range": _SPREAD, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the checkpoint's weights."""
        keys, width = 64 * self.kv_heads, self.width
        yield "model.embed_tokens.weight", (self.vocabulary, width)
        for layer in range(self.layers):
            start = f"model.layers.{layer}."
            yield f"{start}input_layernorm.weight", (width,)
            yield f"{start}self_attn.q_proj.weight", (64 * self.heads, width)
            yield f"{start}self_attn.k_proj.weight", (keys, width)
            yield f"{start}self_attn.v_proj.weight", (keys, width)
            yield f"{start}self_attn.o_proj.weight", (width, 64 * self.heads)
            yield f"{start}post_attention_layernorm.weight", (width,)
            yield f"{start}mlp.gate_proj.weight", (self.hidden, width)
            yield f"{start}mlp.up_proj.weight", (self.hidden, width)
            yield f"{start}mlp.down_proj.weight", (width, self.hidden)
        yield "model.norm.weight", (width,)


SHAPES = {
    "m135": Shape("m135", 30, 576, 9, 3, 1536, 49_152),
    "m30": Shape("m30", 8, 512, 8, 4, 1376, 8_192),
}
"""m135 is SmolLM2-135M; m30 has 27 million parameters."""


def folder(name: str) -> Path:
    """The model as a Hugging Face directory in float32, made when it is not there.

    Raises:
        UserError: the tokenizer of m135 cannot be fetched.
    """
    shape = SHAPES[name]
    target = CACHE / "models" / name
    if target.is_dir():
        return target
    from safetensors.numpy import save_file

    work = target.with_name(f".{name}.making")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if name == "m135":
        _smollm2_tokenizer(work)
    else:
        _own_tokenizer(work, shape.vocabulary)
    write_json(work / "config.json", shape.config())
    write_json(work / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    random = np.random.default_rng(_SEED)
    save_file(dict(_weights(shape, random)), work / "model.safetensors", {"format": "pt"})
    work.rename(target)
    return target


def gguf(name: str, kind: str) -> Path:
    """The model as a GGUF file of one of `KINDS`, made when it is not there.

    Raises:
        UserError: the tokenizer of m135 cannot be fetched.
    """
    target = CACHE / "models" / f"{name}-{kind}.gguf"
    if not target.is_file():
        if kind == "q4_0-pure":
            _rewrite_pure(gguf(name, "q4_0"), folder(name), target)
        else:
            from cadran.library.export import export_gguf_file

            export_gguf_file(folder(name), target, kind, name=name)
    return target


def weight_bytes(path: Path) -> int:
    """Bytes of a GGUF file's tensors, all of which are read for a token (the embedding because it is the head)."""
    from cadran.model.gguf.reader import GgufFile

    with GgufFile.open(path) as file:
        return sum(len(tensor.data) for tensor in file.tensors.values())


def _weights(shape: Shape, random: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, size in shape.tensors():
        if len(size) == 1:
            yield name, np.ones(size, np.float32)
        else:
            yield name, random.standard_normal(size, np.float32) * np.float32(_SPREAD)


def _rewrite_pure(file: Path, checkpoint: Path, target: Path) -> None:
    """The same file with the embedding as q4_0 too."""
    from safetensors import safe_open

    from cadran.model.gguf.reader import GgufFile
    from cadran.model.gguf.writer import write_gguf

    with GgufFile.open(file) as source, safe_open(checkpoint / "model.safetensors", "numpy") as weights:

        def tensors() -> Iterator[tuple[str, NDArray[np.float32], str]]:
            for name, tensor in source.tensors.items():
                if name == "token_embd.weight":
                    yield name, weights.get_tensor("model.embed_tokens.weight"), "Q4_0"
                else:  # what a block of q4_0 holds is stored as the same block again
                    yield name, tensor.dequantised(), tensor.kind

        write_gguf(target, source.metadata, tensors())


def _smollm2_tokenizer(target: Path) -> None:
    from cadran.library.builtin import BUILT_IN
    from cadran.library.pull import pull
    from cadran.model.gguf.translate import GgufModel
    from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

    pulled = pull(dataclasses.replace(BUILT_IN["smollm2"], cache=CACHE.parent), models=CACHE)
    with GgufModel.open(pulled.path) as model:
        serialised, settings = tokenizer_from_gguf(model.metadata)
    write_text(target / "tokenizer.json", serialised)
    write_json(target / "tokenizer_config.json", settings)


def _own_tokenizer(target: Path, vocabulary: int) -> None:
    """A tokenizer trained on the sources of Python's standard library, which every machine has."""
    from cadran.tokenizer.bpe import train_bpe

    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    train_bpe((path.read_text(encoding="utf-8") for path in sources), vocabulary).save(target, chat=True)
