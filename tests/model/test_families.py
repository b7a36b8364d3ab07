"""Every family against ``transformers``: tiny random models over the options that change the mathematics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadran.engine.pieces import Piece, joined
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.cache import KVCache
from cadran.model.checkpoint import load_model, save_model, stored_weights
from cadran.model.families import FAMILIES, read_config
from cadran.model.transformer import Transformer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

VOCABULARY, CONTEXT = 61, 96
Draw = Callable[[st.SearchStrategy[Any]], Any]
some = st.sampled_from


def rope(
    draw: Draw, width: int, kinds: tuple[str, ...] = ("default", "linear", "dynamic", "llama3", "yarn")
) -> dict[str, Any]:
    """A ``rope_parameters`` of a kind that the family knows."""
    kind = draw(some(kinds))
    content: dict[str, Any] = {"rope_type": kind, "rope_theta": draw(some([100.0, 10_000.0]))}
    if kind in ("linear", "dynamic"):
        content["factor"] = draw(some([2.0, 4.0]))
    if kind == "llama3":
        content |= {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    if kind == "yarn":
        content |= {"factor": draw(some([2.0, 4.0])), "original_max_position_embeddings": 24}
        content |= draw(
            some([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.3}, {"truncate": False}])
        )
    if kind == "longrope":
        divisors = st.lists(st.floats(1.0, 9.0, width=32), min_size=width // 2, max_size=width // 2)
        content |= {"short_factor": draw(divisors), "long_factor": draw(divisors)}
    return content


def shape(draw: Draw, **changes: Any) -> dict[str, Any]:
    """Sizes that all Llama-shaped families share."""
    kv_heads = draw(st.integers(1, 2))
    return {
        "vocab_size": VOCABULARY, "num_hidden_layers": draw(st.integers(1, 3)), "hidden_size": draw(some([16, 24])),
        "num_attention_heads": kv_heads * draw(st.integers(1, 2)), "num_key_value_heads": kv_heads,
        "head_dim": draw(some([8, 12])), "intermediate_size": draw(some([20, 32])),
        "max_position_embeddings": CONTEXT, "tie_word_embeddings": draw(st.booleans()),
        "rms_norm_eps": draw(some([1e-5, 1e-6])), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip


def llama(draw: Draw) -> Any:
    sizes = shape(draw, attention_bias=draw(st.booleans()), mlp_bias=draw(st.booleans()))
    return transformers.LlamaConfig(**sizes, rope_parameters=rope(draw, sizes["head_dim"]))


def mistral(draw: Draw) -> Any:
    sizes = shape(draw, sliding_window=draw(some([None, 5, 40])))
    return transformers.MistralConfig(**sizes, rope_parameters=rope(draw, sizes["head_dim"]))


def mixtral(draw: Draw) -> Any:
    sizes = shape(
        draw, sliding_window=draw(some([None, 7])), num_local_experts=draw(some([2, 4])), num_experts_per_tok=2
    )
    return transformers.MixtralConfig(**sizes)


def windows(draw: Draw) -> dict[str, Any]:
    return draw(some([{}, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}]))  # type: ignore[no-any-return]


def qwen2(draw: Draw) -> Any:
    sizes = shape(draw)
    sizes["hidden_size"] = sizes.pop("head_dim") * sizes["num_attention_heads"]
    return transformers.Qwen2Config(**sizes, **windows(draw), rope_parameters=rope(draw, 8, ("default", "yarn")))


def qwen3(draw: Draw) -> Any:
    sizes = shape(draw, attention_bias=draw(st.booleans()))
    return transformers.Qwen3Config(**sizes, **windows(draw), rope_parameters=rope(draw, 8, ("default", "yarn")))


def qwen3_moe(draw: Draw) -> Any:
    sizes = shape(draw, num_experts=4, num_experts_per_tok=draw(some([1, 2])), moe_intermediate_size=12)
    return transformers.Qwen3MoeConfig(
        **sizes,
        norm_topk_prob=draw(st.booleans()),
        mlp_only_layers=draw(some([[], [0]])),
        decoder_sparse_step=draw(some([1, 2])),
    )


def gemma(draw: Draw) -> dict[str, Any]:
    sizes = shape(
        draw, sliding_window=5, query_pre_attn_scalar=draw(some([8, 24])), num_hidden_layers=draw(st.integers(2, 4))
    )
    sizes["hidden_size"] = 12 * sizes["num_attention_heads"]
    return sizes | {"attention_bias": draw(st.booleans())}


def gemma2(draw: Draw) -> Any:
    caps = draw(
        some([{}, {"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"attn_logit_softcapping": 2.0}])
    )
    return transformers.Gemma2Config(**gemma(draw), **caps)


def gemma3_text(draw: Draw) -> Any:
    stretched = draw(some([{"rope_type": "default"}, {"rope_type": "linear", "factor": 8.0}]))
    ropes = {
        "full_attention": stretched | {"rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    return transformers.Gemma3TextConfig(
        **gemma(draw), rope_parameters=ropes, sliding_window_pattern=draw(some([2, 3]))
    )


def phi3(draw: Draw) -> Any:
    sizes = shape(draw, sliding_window=draw(some([None, 9])))
    sizes.pop("head_dim")
    share, width = draw(some([0.5, 1.0])), draw(some([8, 16]))
    sizes["hidden_size"] = width * sizes["num_attention_heads"]
    parameters = rope(draw, int(width * share), ("default", "longrope")) | {"partial_rotary_factor": share}
    return transformers.Phi3Config(
        **sizes, rope_parameters=parameters, original_max_position_embeddings=draw(some([24, 48]))
    )


def olmo2(draw: Draw) -> Any:
    sizes = shape(draw, attention_bias=draw(st.booleans()))
    sizes["hidden_size"] = sizes.pop("head_dim") * sizes["num_attention_heads"]
    return transformers.Olmo2Config(**sizes)


def gpt2(draw: Draw) -> Any:
    heads = draw(st.integers(1, 3))
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_layer=draw(st.integers(1, 3)), n_embd=8 * heads, n_head=heads, n_positions=CONTEXT,
        n_inner=draw(some([None, 20])), activation_function=draw(some(["gelu_new", "gelu"])),
        tie_word_embeddings=draw(st.booleans()), bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def deepseek(draw: Draw) -> dict[str, Any]:
    sizes = shape(
        draw, qk_nope_head_dim=draw(some([8, 12])), qk_rope_head_dim=draw(some([4, 8])), v_head_dim=draw(some([6, 8]))
    )
    sizes.pop("head_dim")
    sizes |= {"q_lora_rank": draw(some([None, 10])), "kv_lora_rank": 12, "first_k_dense_replace": draw(some([0, 1]))}
    sizes |= {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 10,
        "n_shared_experts": draw(some([1, 2])),
    }
    sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    sizes["hidden_size"] = 12 * sizes["num_attention_heads"]
    stretched = rope(draw, 4, ("default", "yarn"))
    if stretched["rope_type"] == "yarn":
        stretched |= draw(some([{}, {"mscale": 1.0, "mscale_all_dim": 0.7}]))
    return sizes | {"routed_scaling_factor": draw(some([1.0, 2.5])), "rope_parameters": stretched}


def deepseek_v2(draw: Draw) -> Any:
    routing = draw(
        some([{"topk_method": "greedy"}, {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}])
    )
    return transformers.DeepseekV2Config(**deepseek(draw), **routing)


def deepseek_v3(draw: Draw) -> Any:
    choices = {"norm_topk_prob": draw(st.booleans()), "rope_interleave": draw(st.booleans())}
    return transformers.DeepseekV3Config(**deepseek(draw), **choices, n_group=4, topk_group=2)


CONFIGS: dict[str, Callable[[Draw], Any]] = {
    function.__name__: function
    for function in (
        gpt2, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3_text, phi3, olmo2, deepseek_v2,
        deepseek_v3,
    )
}  # fmt: skip


def pair(config: Any, folder: Path, seed: int) -> tuple[Transformer, Any]:
    """The same random model here and there, through a directory that ``transformers`` wrote."""
    plain = {"experts_implementation": "eager"} if "router" in str(config) or "routed" in str(config) else {}
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", **plain).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if isinstance(tensor, torch.nn.Parameter) or name.endswith("e_score_correction_bias"):
                tensor.add_(torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.ndim > 1 else 0.2))
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_every_family_is_covered() -> None:
    assert CONFIGS.keys() == FAMILIES.keys()


over_families = pytest.mark.parametrize("family", CONFIGS)
few = settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@over_families
@few
@given(data=st.data(), seed=st.integers(0, 3))
def test_logits_equal_those_of_transformers(
    family: str, data: st.DataObject, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In one pass, in pieces with a cache, and with padding at the left; then the gradients."""
    model, theirs = pair(CONFIGS[family](data.draw), tmp_path_factory.mktemp(family), seed)
    ids = tokens(2, 50, seed)
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (model(ids) - expected).abs().max() < 1e-5
        cache = KVCache(model.config, batch=2, capacity=50)
        dependent = model.config.rope is not None and model.config.rope.kind in ("dynamic", "longrope")
        if not dependent:  # what was kept was turned by the frequencies of a shorter sequence, there as here
            pieces = torch.cat([model(piece, cache) for piece in ids.split([20, 1, 1, 28], 1)], 1)
            assert (pieces - expected).abs().max() < 1e-5
        padding = torch.tensor([0, 7])
        mask = (torch.arange(50)[None] >= padding[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padded = theirs(ids, attention_mask=mask, position_ids=positions).logits
        ours = model(ids, padding=padding)
        assert ((ours - padded) * mask[..., None]).abs().max() < 1e-5
    assert_gradients(model, theirs, ids[:, :20])


def assert_gradients(model: Transformer, theirs: Any, ids: torch.Tensor) -> None:
    """Derivatives of the loss by every weight, within 1e-4."""
    loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    other = theirs(ids, labels=ids).loss
    other.backward()
    assert loss.item() == pytest.approx(other.item(), abs=1e-5)
    found = {}
    for name, parameter in theirs.named_parameters():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        if name.endswith("experts.gate_up_proj"):  # joined in memory, apart on disk
            for expert, both in enumerate(gradient):
                gate, up = both.chunk(2)
                found[name.replace("gate_up_proj", f"{expert}.gate_proj.weight")] = gate
                found[name.replace("gate_up_proj", f"{expert}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(gradient):
                found[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
        else:
            found[name] = gradient
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    rules = FAMILIES[model.config.family]
    laid_out = rules.stored(parameters) if model.config.family != "mixtral" else FAMILIES["llama"].stored(parameters)
    assert len(laid_out) == len(found)
    for stored in laid_out:
        grads = [parameters[n].grad for n in stored.ours]
        gradient = torch.cat(
            [g if g is not None else torch.zeros_like(parameters[n]) for g, n in zip(grads, stored.ours, strict=True)]
        )
        gradient = gradient.t() if stored.transposed and gradient.ndim == 2 else gradient
        assert (gradient - found[stored.name]).abs().max() < 1e-4, stored.name


@over_families
@settings(few, max_examples=2)
@given(data=st.data(), seed=st.integers(0, 3))
def test_greedy_continuation_is_that_of_transformers(
    family: str, data: st.DataObject, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, theirs = pair(CONFIGS[family](data.draw), tmp_path_factory.mktemp(family), seed)
    ids = tokens(1, 10, seed)
    never = transformers.GenerationConfig(max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
    theirs.generation_config.eos_token_id = None  # else it is merged into ours
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=never)[0, 10:].tolist()
    runner, waiting, said, read = TorchRunner(model, blocks=24, block_size=4), ids[0].tolist(), [], 0
    for _ in range(64):
        logits = runner.step(joined([Piece(waiting, read, range(24))]))
        read += len(waiting)
        waiting = [int(logits[0].argmax())]
        said += waiting
    assert len(expected) == 64
    assert said == expected


@over_families
@settings(few, max_examples=3)
@given(data=st.data())
def test_export_to_transformers_and_back_is_the_identity(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Byte for byte on the tensors, and field for field on the configuration."""
    root = tmp_path_factory.mktemp(family)
    model, _ = pair(CONFIGS[family](data.draw), root / "theirs", 1)
    save_model(model, root / "ours", end_of_text=1, pad=0, eos=[2])
    again = transformers.AutoModelForCausalLM.from_pretrained(root / "ours", dtype=torch.float32)
    assert type(again).__name__ == FAMILIES[family].architecture
    again.save_pretrained(root / "again")
    back = load_model(root / "again")
    assert back.config == model.config == load_model(root / "ours").config
    weights = dict(back.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shards_and_types_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = load_model(tmp_path)
    named = dict(theirs.named_parameters())
    for name, tensor in stored_weights(model, FAMILIES["llama"]):
        assert tensor.dtype == dtype and torch.equal(tensor, named[name])
    assert load_model(tmp_path, torch.float32).lm_head.weight.dtype == torch.float32


def test_a_checkpoint_of_the_inner_model_opens(tmp_path: Path) -> None:
    """As GPT-2's on the hub: names without ``transformer.``, and masks among the weights."""
    from safetensors.torch import load_file, save_file

    model, _ = pair(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_layer=1, n_embd=16, n_head=2, n_positions=32), tmp_path, 0
    )
    weights = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(weights | {"h.0.attn.bias": torch.ones(1, 1, 32, 32)}, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert torch.equal(again(tokens(1, 9)), model(tokens(1, 9)))


def test_an_unknown_architecture_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match="'mamba' is not known; pick one of gpt2, llama") as refusal:
        read_config({"model_type": "mamba"})
    assert all(family in str(refusal.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "head"),
        ({"hidden_act": "relu6"}, "relu6"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "spiral"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"vocab_size": True}, "vocab_size"),
    ],
)
def test_impossible_configurations_are_refused_by_the_field(change: dict[str, Any], named: str) -> None:
    content = transformers.LlamaConfig(hidden_size=32, num_attention_heads=2).to_dict() | {"model_type": "llama"}
    read_config(content)
    with pytest.raises(UserError, match=named):
        read_config(content | change)


def spoiled(folder: Path, **index: Any) -> Path:
    """A sharded model whose index was changed."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="4KB")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


def test_missing_and_wandering_shards_are_refused(tmp_path: Path) -> None:
    folder = spoiled(tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        load_model(folder)
    shard.write_bytes(content)
    for name in ("../model.safetensors", "/etc/passwd", "..\\x"):
        spoiled(folder, weight_map={"lm_head.weight": name})
        with pytest.raises(UserError, match="beside it"):
            load_model(folder)
    spoiled(folder, weight_map=[1])
    with pytest.raises(UserError, match="cannot be read"):
        load_model(folder)


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    folder = spoiled(tmp_path)
    torch.save({"lm_head.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_model(folder)
