"""Thousands of damaged model folders: each loads or is refused with a `UserError`, at once and in little memory."""

import copy
import json
import random
import signal
import struct
import sys
from contextlib import contextmanager
from math import prod

import pytest
import torch

from cadran.errors import UserError
from cadran.model.checkpoint import load_model

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs alarms to end what runs away")

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 0, "eos_token_id": [0, 1],
    "head_dim": 4, "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 32,
    "model_type": "llama", "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 16},
    "vocab_size": 16,
}  # fmt: skip

SHAPES = {"model.embed_tokens.weight": [16, 8], "model.norm.weight": [8], "lm_head.weight": [16, 8]} | {
    f"model.layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": [8, 8], "self_attn.k_proj": [4, 8], "self_attn.v_proj": [4, 8], "self_attn.o_proj": [8, 8],
        "mlp.gate_proj": [12, 8], "mlp.up_proj": [12, 8], "mlp.down_proj": [8, 12], "input_layernorm": [8],
        "post_attention_layernorm": [8],
    }.items()
}  # fmt: skip

# What a stranger may put where a name, a size or a place is expected. JSON as Python writes it holds Infinity and NaN.
ODDITIES = [None, True, -1, 0, 1, 2**31 - 1, 2**31, 2**60, 2**63, 2**64, 10**400, 0.5, 1e308, float("inf"),
            float("nan"), "", "F32", "F8_E4M3", "\ud800", "x" * 10_000, [], [[]], [2**40, 2**40], [-8, 8], [0.0], {},
            {"a": {}}, "../../etc/passwd", "llama", "gpt2", "yarn", "mixtral"]  # fmt: skip


def header():
    """The header of a sound file and the bytes of weights that it speaks of."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in SHAPES.items():
        start, end = end, end + 4 * prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    return entries, end


def packed(entries, size):
    """A safetensors file with that header, which may be anything."""
    content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(content)) + content + bytes(size)


def injured_tree(content, generator):
    """A copy of a JSON value in which one to three inner values or keys are replaced, doubled or taken out."""
    content = copy.deepcopy(content)
    for _ in range(generator.choice([1, 1, 2, 3])):
        node = content
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = generator.choice(list(keys))
            if isinstance(node[key], dict | list) and node[key] and generator.random() < 0.7:
                node = node[key]
                continue
            match generator.randrange(4):
                case 0 | 1:
                    node[key] = copy.deepcopy(generator.choice(ODDITIES))
                case 2:
                    del node[key]
                case 3 if isinstance(node, dict):
                    node[generator.choice(["", "lm_head.weight", "x" * 5000, "\ud800", "\x1b[2J"])] = node.pop(key)
                case _:
                    node.append(node[key])
            break
    return content


def injured_bytes(content, generator):
    """A copy of some bytes with one to three injuries, most of them near the beginning."""
    for _ in range(generator.choice([1, 1, 2, 3])):
        at = generator.randrange(min(len(content), generator.choice([9, 300, len(content)])) or 1)
        length = generator.choice([1, 2, 8, 40])
        number = generator.choice([0, 1, 2, max(8, len(content)) - 8, 2**31, 2**60, 2**63, 2**64 - 1])
        content = generator.choice([
            content[:at] + bytes([generator.randrange(256)]) + content[at + 1 :],
            content[:at] + content[at + length :],
            content[:at] + content[at : at + length] + content[at:],
            content[:at],
            content + bytes(length),
            struct.pack("<Q", number) + content[8:],
            content[:at] + b"[" * 100_000 + content[at:],
            content[:at] + b"9" * 5_000 + content[at:],
        ])  # fmt: skip
    return content


def injured_weights(generator):
    """A weights file with a damaged header or damaged bytes."""
    entries, size = header()
    if generator.random() < 0.5:
        return packed(injured_tree(entries, generator), size)
    return injured_bytes(packed(entries, size), generator)


def injured_config(generator):
    """The text of a damaged configuration."""
    if generator.random() < 0.8:
        return json.dumps(injured_tree(CONFIG, generator)).encode()
    return injured_bytes(json.dumps(CONFIG).encode(), generator)


@pytest.fixture
def folder(tmp_path):
    """A sound model folder."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(packed(*header()))
    return tmp_path


def fuzz(folder, name, injured, n_files, seed):
    """Load a folder with that many versions of one file; the number that were refused."""
    load_model(folder)  # what torch loads on first use is not counted below
    generator = random.Random(seed)
    refused, before = 0, peak_memory()
    for number in range(n_files):
        content = injured(generator)
        (folder / name).write_bytes(content)
        try:
            with at_most(3):
                assert not any(parameter.is_meta for parameter in load_model(folder).parameters())
        except UserError as error:
            refused += 1
            str(error).encode()  # a lone surrogate out of the file would break the terminal
            assert len(str(error)) < 1000
        except Exception as error:
            raise AssertionError(f"version {number} of seed {seed}: {content[:3000]!r}") from error
    assert peak_memory() - before < 64 << 20
    return refused


@contextmanager
def at_most(seconds):
    """Ends what computes longer with a `TimeoutError`, so that a bomb fails its test instead of filling the memory."""

    def too_long(*_):
        raise TimeoutError(f"this took more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # a machine that stands still is no bomb
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_memory():
    """The most memory this process ever had, bytes; what a test adds shows only above what others took before."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_the_folder_that_gets_injured_is_sound(folder):
    assert {name for name, _ in load_model(folder).named_parameters()} == set(SHAPES)
    assert all(parameter.dtype == torch.float32 for parameter in load_model(folder).parameters())


def test_injured_weights_load_or_are_refused_and_nothing_else(folder):
    assert 600 < fuzz(folder, "model.safetensors", injured_weights, 1_000, seed=1) < 1_000


def test_injured_configurations_load_or_are_refused_and_nothing_else(folder):
    assert 300 < fuzz(folder, "config.json", injured_config, 1_000, seed=2) < 1_000


@pytest.mark.parametrize("size", [10**6, 2**31 - 1])
@pytest.mark.parametrize(
    "field",
    ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "head_dim"],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_of_that_size_is_made(folder, field, size):
    load_model(folder)
    before = peak_memory()
    (folder / "config.json").write_text(json.dumps(CONFIG | {field: size}))
    with at_most(3), pytest.raises(UserError):
        load_model(folder)
    assert peak_memory() - before < 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 104))
def test_many_injured_folders_load_or_are_refused_and_nothing_else(folder, seed):
    assert fuzz(folder, "model.safetensors", injured_weights, 6_000, seed) > 3_000
    (folder / "model.safetensors").write_bytes(packed(*header()))
    assert fuzz(folder, "config.json", injured_config, 3_000, seed) > 1_000
