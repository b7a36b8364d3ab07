"""What is said of a model without its weights is what the model is, and a hostile header costs nothing."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CONFIG, make_folder, make_gguf
from torch.utils.flop_counter import FlopCounterMode

from cadran.errors import UserError
from cadran.library.header import read_header
from cadran.library.inspection import inspect_model
from cadran.library.parts import part_of

SHAPE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": SHAPE | {"tie_word_embeddings": False},
    "qwen3": SHAPE | {"tie_word_embeddings": True},
    "gpt2": {"vocab_size": 320, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gemma2": SHAPE | {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "mixtral": SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": SHAPE | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
EXPERT_PARAMETERS = {"mixtral": 3 * 4 * 3 * 32 * 64, "qwen3_moe": 3 * 8 * 3 * 32 * 16}
"""Layers, experts, matrices of an expert, its sizes."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Tiny random models as `transformers` makes and saves them: name -> (model, folder)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = {}
    for family, fields in FAMILIES.items():
        config = AutoConfig.for_model(family, **fields)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config).eval()
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        made[family] = model, folder
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_transformers_and_each_tensor_has_its_part(published, family):
    model, folder = published[family]
    found = inspect_model(folder)
    assert found.header.unknown is None and found.header.architecture == family
    assert found.header.parameters == model.num_parameters()
    assert sum(part.parameters for part in found.parts.values()) == found.header.parameters
    assert "other" not in found.parts and {"embedding", "attention", "norms"} <= found.parts.keys()
    assert ("head" in found.parts) == (not model.config.tie_word_embeddings)
    experts = EXPERT_PARAMETERS.get(family, 0)
    assert (found.parts["experts"].parameters if experts else 0) == experts
    active = {"mixtral": 2 / 4, "qwen3_moe": 2 / 8}.get(family, 1)
    assert found.active == found.header.parameters - experts * (1 - active)
    assert found.header.bytes == 4 * found.header.parameters and found.header.kind == "F32"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_takes_as_much_cache_as_in_transformers(published, family):
    model, folder = published[family]
    with torch.no_grad():
        cache = model(torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    cost = inspect_model(folder).cost
    assert numbers == 5 * cost.kv_numbers
    assert cost.kv_bytes(16) == 2 * cost.kv_numbers and cost.kv_bytes(32) == 4 * cost.kv_numbers
    expected_full = {"gemma2": 2 * 2 * 8 * (64 + 2 * 16)}.get(family, 64 * cost.kv_numbers)
    assert cost.kv_numbers_full == expected_full


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_operations_are_those_that_torch_counts(published, family):
    model, folder = published[family]
    cost, length = inspect_model(folder).cost, 7
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long), use_cache=False)
    # `transformers` multiplies by the whole mask, so each token attends to all positions.
    assert counter.get_total_flops() == length * cost.flops + length * length * cost.flops_per_position
    assert cost.flops_full == cost.flops + 64 * cost.flops_per_position


def test_experts_that_sleep_cost_nothing(published):
    _, folder = published["mixtral"]
    cost = inspect_model(folder).cost
    attention, router, head = 3 * 32 * 8 * (4 + 4 + 2 + 2), 3 * 4 * 32, 320 * 32
    assert cost.flops == 2 * (attention + router + head + EXPERT_PARAMETERS["mixtral"] // 2)


def test_both_formats_tell_the_same_of_one_model(tmp_path):
    folder, file = inspect_model(make_folder(tmp_path / "a")), inspect_model(make_gguf(tmp_path / "a.gguf"))
    assert {name: part.parameters for name, part in folder.parts.items()} == {
        name: part.parameters for name, part in file.parts.items()
    }
    assert folder.cost == file.cost and folder.active == file.active
    assert (folder.header.kind, file.header.kind) == ("F32", "Q8_0")
    assert (folder.header.licence, file.header.licence) == ("mit", "apache-2.0")
    assert file.header.bytes < file.header.parameters * 1.1
    assert folder.header.tokenizer.capabilities == ["chat", "fill-in-the-middle"]
    assert file.header.tokenizer.capabilities == ["chat", "tools"]


def test_sharded_weights_are_counted_once(tmp_path):
    one, three = inspect_model(make_folder(tmp_path / "one")), inspect_model(make_folder(tmp_path / "three", shards=3))
    assert one.parts == three.parts and one.cost == three.cost


def test_json_has_every_tensor_and_no_path(tmp_path):
    content = inspect_model(make_folder(tmp_path / "tiny")).to_json()
    text = json.dumps(content, allow_nan=False)
    assert str(tmp_path) not in text and len(content["tensors"]) == 20
    assert content["tensors"][0].keys() == {"name", "kind", "shape", "bytes"}
    assert content["kv_cache"]["bytes_per_token"] == {"float16": 2 * 2 * 32, "float32": 4 * 2 * 32}


def test_an_unknown_architecture_is_still_taken_apart(tmp_path):
    folder = make_folder(tmp_path / "strange")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "strange"}))
    for found in (inspect_model(folder), inspect_model(make_gguf(tmp_path / "strange.gguf", "strange"))):
        assert found.cost is None and found.active is None and "strange" in found.header.unknown
        assert found.header.architecture == "strange" and found.header.context == 64
        assert found.parts["attention"].parameters == 2 * (32 * 32 * 2 + 16 * 32 * 2)
        json.dumps(found.to_json())


def test_inspection_loads_neither_torch_nor_transformers(tmp_path):
    paths = make_folder(tmp_path / "a"), make_gguf(tmp_path / "a.gguf")
    code = (
        "import sys, pathlib; from cadran.library.inspection import inspect_model\n"
        f"for path in {[str(path) for path in paths]!r}: inspect_model(pathlib.Path(path))\n"
        "sys.exit(bool({'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_that_are_only_claimed_get_no_memory(tmp_path):
    folder = make_folder(tmp_path / "a")
    for kind in ("llama", "mixtral", "mistral", "gemma2", "deepseek_v3"):
        (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": kind, "num_hidden_layers": 2**31 - 1}))
        assert "2147483647 layers" in inspect_model(folder).header.unknown


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("victim") / "tiny")


@given(changes=st.dictionaries(st.sampled_from([*CONFIG, "rope_parameters", "sliding_window", "head_dim"]), _JSON))
def test_any_configuration_is_read_or_explained(victim, changes):
    (victim / "config.json").write_text(json.dumps(CONFIG | changes))
    found = inspect_model(victim)
    assert (found.header.sizes is None) == (found.header.unknown is not None)


@given(content=_JSON, name=st.sampled_from(["tokenizer_config.json", "chat_template.json", "tokenizer.json"]))
def test_any_tokenizer_file_is_looked_at_or_left(victim, content, name):
    (victim / "config.json").write_text(json.dumps(CONFIG))
    before = (victim / name).read_bytes() if (victim / name).exists() else None
    try:
        (victim / name).write_text(json.dumps(content))
        assert isinstance(inspect_model(victim).header.tokenizer.capabilities, list)
    finally:
        if before is None:
            (victim / name).unlink()
        else:
            (victim / name).write_bytes(before)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a"', "[" * 10_000, "\ufeff{}"])
def test_a_configuration_that_is_none_is_refused(victim, content):
    (victim / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"model directory|no object"):
        read_header(victim)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "attention"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.mlp.gate.e_score_correction_bias", "router"),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", "mlp"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", "experts"),
        ("transformer.h.0.ln_1.bias", "norms"),
        ("h.0.attn.c_attn.weight", "attention"),
        ("blk.0.ffn_gate_exps.weight", "experts"),
        ("blk.0.ffn_gate_shexp.weight", "mlp"),
        ("blk.0.ffn_gate_inp.weight", "router"),
        ("blk.0.attn_output.weight", "attention"),
        ("blk.0.post_ffw_norm.weight", "norms"),
        ("output.weight", "head"),
        ("output_norm.weight", "norms"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_a_tensor_is_sorted_by_its_name(name, part):
    assert part_of(name) == part
