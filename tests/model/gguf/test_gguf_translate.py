"""GGUF files as Hugging Face checkpoints and back; the oracles are `transformers` and the `gguf` package."""

import dataclasses
import subprocess
import sys

import gguf
import pytest
import torch
import transformers
from tiny_checkpoints import CHECKPOINTS, SIZES, TOKENIZER, checkpoint, exported, rewritten

from cadran.model.families import read_config
from cadran.model.gguf.architectures import ARCHITECTURES, architecture_of
from cadran.model.gguf.layouts import RotaryPairs
from cadran.model.gguf.places import places
from cadran.model.gguf.translate import GgufModel, export_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A plain Llama as GGUF."""
    return exported("llama", tmp_path_factory.mktemp("llama"))[0]


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    """A DeepSeek-V3 as GGUF."""
    return exported("deepseek_v3", tmp_path_factory.mktemp("deepseek"))[0]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_comes_back_from_gguf_bit_for_bit(name, tmp_path):
    path, config, weights = exported(name, tmp_path)
    with GgufModel.open(path) as model:
        found = dict(model.weights())
        names, back = model.weight_names(), model.config
    kept = weights.keys() - {"lm_head.weight"} if read_config(config).tied else weights.keys()
    assert set(names) == set(found) == set(kept)
    for key, tensor in found.items():
        assert torch.equal(tensor.float(), weights[key]), key
    assert read_config(back) == read_config(config)
    assert {key: back[key] for key in ("model_type", "architectures")} == {
        key: config[key] for key in ("model_type", "architectures")
    }
    assert [back[key] for key in ("bos_token_id", "eos_token_id")] == [1, 2]


def test_opening_a_file_loads_no_torch(llama):
    program = (
        "import sys; from pathlib import Path; from cadran.model.gguf.translate import GgufModel\n"
        f"with GgufModel.open(Path({str(llama)!r})) as model: print(len(model.weight_names()), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["21", "False"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_keys_names_and_types_are_those_of_the_gguf_package(name, tmp_path):
    path, _, _ = exported(name, tmp_path)
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    code = next(code for code, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    keys = {
        value.replace("{arch}", architecture)
        for group in (gguf.Keys.General, gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope, gguf.Keys.Tokenizer)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    assert {key for key in reader.fields if not key.startswith("GGUF.")} <= keys
    blocks = reader.fields[f"{architecture}.block_count"].contents()
    known = {
        gguf.TENSOR_NAMES[tensor].format(bid=layer) for tensor in gguf.MODEL_TENSORS[code] for layer in range(blocks)
    }
    for tensor in reader.tensors:
        assert tensor.name.rsplit(".", 1)[0] in known
    for key, field in reader.fields.items():
        if key.startswith(architecture) and not key.endswith("rope.scaling.type"):
            real = any(
                word in key for word in ("epsilon", "freq_base", "factor", "softcapping", "scale", "multiplier", "beta")
            )
            flag = key.endswith("weights_norm")
            wanted = gguf.GGUFValueType.FLOAT32 if real else gguf.GGUFValueType.UINT32
            assert field.types == [gguf.GGUFValueType.BOOL if flag else wanted], key


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_names_of_the_checkpoint_map_to_the_gguf_packages_names(architecture):
    code = next(code for code, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture.name)
    table = gguf.get_tensor_name_map(code, 1)
    # What the converter calls merged or split tensors before it looks them up.
    spelt = {
        "block_sparse_moe.experts.{expert}": "block_sparse_moe.experts",
        "mlp.experts.{expert}": "mlp.experts",
        "gate.e_score_correction_bias": "gate.e_score_correction.bias",
    }
    for rule in architecture.rules:
        theirs = rule.checkpoint.replace("{layer}", "0")
        for old, new in spelt.items():
            theirs = theirs.replace(old, new)
        for name in rule.gguf:
            middle = {"attn_k_b": "k_b_proj", "attn_v_b": "v_b_proj"}.get(name.split(".")[-2], "kv_b_proj")
            asked = theirs.replace("kv_b_proj", middle)
            assert table.get_name(asked, try_suffixes=(".weight", ".bias")) == name.replace("{layer}", "0"), asked


def test_permuted_rows_turn_in_neighbouring_pairs_as_the_checkpoints_rows_turn_in_halves():
    generator = torch.Generator().manual_seed(1)
    heads, width = 3, 8
    rows = torch.randn(heads * width, generator=generator)
    angles = torch.randn(width // 2, generator=generator)
    halves = rows.view(heads, 2, width // 2)
    turned = torch.stack(
        [
            halves[:, 0] * angles.cos() - halves[:, 1] * angles.sin(),
            halves[:, 1] * angles.cos() + halves[:, 0] * angles.sin(),
        ],
        1,
    ).reshape(-1)
    (permuted,) = RotaryPairs(heads).to_gguf([rows])
    pairs = torch.view_as_complex(permuted.view(heads, width // 2, 2)) * torch.polar(torch.ones_like(angles), angles)
    (expected,) = RotaryPairs(heads).to_gguf([turned])
    torch.testing.assert_close(torch.view_as_real(pairs).reshape(-1), expected)


def test_only_llama_and_its_kin_are_permuted():
    permuted = {
        architecture.name
        for architecture in ARCHITECTURES
        for rule in architecture.rules
        if rule.layout.__name__.endswith("_pairs")
    }
    assert permuted == {"llama"}


def test_a_quantised_file_keeps_norms_and_routers_whole_and_falls_back_where_rows_do_not_divide(tmp_path):
    path, _, _ = exported("mixtral", tmp_path, "q4_0", intermediate_size=80)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == kinds["blk.0.attn_norm.weight"] == kinds["blk.1.ffn_gate_inp.weight"] == "F32"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.1.ffn_gate_exps.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_down_exps.weight"] == "F16"
    gpt2 = tmp_path / "gpt2"
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(exported("gpt2", gpt2, "q8_0")[0]).tensors}
    assert kinds["position_embd.weight"] == kinds["blk.0.attn_qkv.bias"] == "F32"
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_qkv.weight"] == "Q8_0"


@pytest.mark.parametrize(("kind", "code"), [("q8_0", 7), ("q4_0", 2), ("f16", 1)])
def test_quantised_weights_are_those_of_the_gguf_package(kind, code, tmp_path):
    path, _, weights = exported("qwen3", tmp_path, kind)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.file_type"].contents() == code
    stored = gguf.GGMLQuantizationType[kind.upper()]
    for tensor in reader.tensors:
        if tensor.name == "blk.1.ffn_up.weight":
            packed = gguf.quants.quantize(weights["model.layers.1.mlp.up_proj.weight"].numpy(), stored)
            assert tensor.data.tobytes() == packed.tobytes()
    with GgufModel.open(path) as model:
        found = dict(model.weights())
        dtype = model.config["torch_dtype"]
    assert found["model.embed_tokens.weight"].dtype == (torch.float16 if kind == "f16" else torch.float32)
    assert dtype == ("float16" if kind == "f16" else "float32")
    assert (
        found["model.layers.0.mlp.up_proj.weight"].float() - weights["model.layers.0.mlp.up_proj.weight"]
    ).abs().max() < 0.07


def test_two_exports_of_a_model_are_the_same_bytes(tmp_path):
    config, weights = checkpoint("gemma3", tmp_path / "checkpoint")
    for name in ("first", "second"):
        export_gguf(tmp_path / name, config, weights, TOKENIZER, "q8_0", "tiny", licence="apache-2.0")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    reader = gguf.GGUFReader(tmp_path / "first")
    assert [reader.fields[f"general.{key}"].contents() for key in ("name", "license")] == ["tiny", "apache-2.0"]


def test_tensors_stay_when_the_file_is_closed(llama):
    with GgufModel.open(llama) as model:
        found = dict(model.weights())
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_every_end_of_the_model_is_an_end_in_the_file_and_back(tmp_path):
    config, weights = checkpoint("gemma2", tmp_path / "checkpoint")
    export_gguf(tmp_path / "model.gguf", config | {"eos_token_id": [1, 7]}, weights, TOKENIZER, "f16", "tiny")
    with GgufModel.open(tmp_path / "model.gguf") as model:
        assert model.metadata["tokenizer.ggml.eos_token_id"] == 1
        assert model.metadata["tokenizer.ggml.eot_token_id"] == 7
        assert model.config["eos_token_id"] == [1, 7]
    known = TOKENIZER | {"tokenizer.ggml.eos_token_id": 7}
    export_gguf(tmp_path / "model.gguf", config | {"eos_token_id": [1, 7]}, weights, known, "f16", "tiny")
    with GgufModel.open(tmp_path / "model.gguf") as model:
        assert model.config["eos_token_id"] == [7, 1]


def test_a_file_without_special_tokens_names_none(llama, tmp_path):
    keys = {f"tokenizer.ggml.{name}_token_id": None for name in ("bos", "eos", "padding")}
    with GgufModel.open(rewritten(llama, tmp_path / "bare.gguf", keys)) as model:
        assert [model.config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [None, None, None]


def test_a_tied_head_is_written_where_llama_cpp_wants_one(tmp_path):
    path, config, weights = exported("olmo2", tmp_path, tie_word_embeddings=True)
    with GgufModel.open(path) as model:
        found = dict(model.weights())
        assert model.config["tie_word_embeddings"] is False
    assert "lm_head.weight" not in weights and config["tie_word_embeddings"] is True
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_a_mistral_without_a_window_is_a_llama(tmp_path):
    path, config, _ = exported("mistral", tmp_path, sliding_window=None)
    with GgufModel.open(path) as model:
        assert model.config["model_type"] == "llama"
        assert dataclasses.replace(read_config(model.config), family="mistral") == read_config(config)


def test_an_older_file_of_deepseek_has_keys_and_values_in_one_tensor(deepseek, tmp_path):
    with GgufModel.open(deepseek) as model:
        found, config = dict(model.weights()), model.config
        latent = read_config(config).latent
        halves = [name for name in model.file.tensors if "attn_k_b" in name or "attn_v_b" in name]
    joined = [
        (f"blk.{i}.attn_kv_b.weight", found[f"model.layers.{i}.self_attn.kv_b_proj.weight"].float().numpy(), "F16")
        for i in range(2)
    ]
    keys = {
        "deepseek2.attention.key_length": latent.plain + latent.rotary,
        "deepseek2.attention.value_length": latent.value,
        "deepseek2.attention.head_count_kv": 4,
        "deepseek2.attention.key_length_mla": None,
        "deepseek2.attention.value_length_mla": None,
    }
    with GgufModel.open(rewritten(deepseek, tmp_path / "old.gguf", keys, halves, joined)) as model:
        assert model.config == config
        for name, tensor in model.weights():
            assert torch.equal(tensor, found[name]), name


def test_the_layer_that_predicts_further_tokens_is_left_out(tmp_path):
    config, weights = checkpoint("deepseek_v3", tmp_path / "checkpoint")
    further = weights | {"model.layers.2.eh_proj.weight": torch.zeros(64, 128)}
    export_gguf(tmp_path / "model.gguf", config, further, TOKENIZER, "f16", "tiny")
    with GgufModel.open(tmp_path / "model.gguf") as model:
        assert set(model.weight_names()) == set(weights)


def test_a_gpt2_whose_names_lack_the_prefix_is_written_all_the_same(tmp_path):
    path, config, weights = exported("gpt2", tmp_path)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 128, 128)
    export_gguf(tmp_path / "bare.gguf", config, bare, TOKENIZER, "f16", "tiny")
    assert (tmp_path / "bare.gguf").read_bytes() == path.read_bytes()


@pytest.mark.network
def test_smollm2_is_the_llama_that_it_is(smollm2_gguf):
    with GgufModel.open(smollm2_gguf) as model:
        config = model.config
        names = model.weight_names()
        first, tensor = next(model.weights())
    wanted = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49_152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert set(names) == theirs.state_dict().keys() - {"lm_head.weight"}
    assert (first, tuple(tensor.shape)) == ("model.embed_tokens.weight", (49_152, 576))


@pytest.mark.network
def test_gemma_3_is_the_gemma_that_it_is(gemma3_gguf):
    with GgufModel.open(gemma3_gguf) as model:
        config, names = model.config, model.weight_names()
    wanted = {
        "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 2048, "sliding_window": 512,
        "query_pre_attn_scalar": 256, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert config["layer_types"] == (["sliding_attention"] * 5 + ["full_attention"]) * 3
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 1e4
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert set(names) == theirs.state_dict().keys() - {"lm_head.weight"}


def test_every_family_has_one_architecture_and_its_places_have_different_names():
    for name in CHECKPOINTS:
        kind, differences = CHECKPOINTS[name]
        plain = {} if kind == "GPT2Config" else SIZES
        model = read_config(getattr(transformers, kind)(**{**plain, **differences}).to_dict())
        found = [key for place in places(architecture_of(model.family).rules, model) for key in place.gguf]
        assert len(found) == len(set(found)) > 0
        stored = [key for place in places(architecture_of(model.family).rules, model) for key in place.checkpoint()]
        assert len(stored) == len(set(stored)) > 0
