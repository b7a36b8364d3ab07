"""LoRA adapters against ``peft``: what either makes, the other opens, with the same logits and gradients."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.model.checkpoint import load_model, save_model
from cadran.model.lora import (
    LoraConfig,
    activate,
    active_adapter,
    adapter_names,
    add_adapter,
    merge,
    remove_adapter,
    with_adapter,
    without_adapter,
)
from cadran.model.lora_files import load_adapter, save_adapter
from cadran.model.lora_linear import LoraLinear
from cadran.model.lora_sites import Site, of_pattern
from cadran.model.transformer import Transformer

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY, WIDTH = 61, 16
IDS = torch.arange(3, 27).reshape(2, 12) * 7 % VOCABULARY
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False, attention_bias=True),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
    ),
    "phi3": lambda: transformers.Phi3Config(**LLAMA, tie_word_embeddings=False),
    "gemma2": lambda: transformers.Gemma2Config(**LLAMA, head_dim=8, query_pre_attn_scalar=8, sliding_window=5),
    "mixtral": lambda: transformers.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **LLAMA, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12
    ),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **(LLAMA | {"num_key_value_heads": 4}), q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4,
        v_head_dim=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, n_shared_experts=1,
        first_k_dense_replace=1, n_group=1, topk_group=1,
    ),
}  # fmt: skip
KINDS = ["llama", "qwen2", "gpt2", "phi3", "gemma2"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"lora_dropout": 0.3},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {r".*1\.(self_attn|attn)\..*": 5, "down_proj": 2},
        "alpha_pattern": {"^transformer.h.0.mlp.c_proj": 3, "o_proj": 1.5},
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random model of ``transformers`` on disk, made once for each kind."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            torch.manual_seed(len(kind))
            theirs = transformers.AutoModelForCausalLM.from_config(MODELS[kind]())
            for parameter in theirs.parameters():
                nn.init.normal_(parameter, 0.1 if parameter.ndim == 1 else 0.0, 0.2)
            made[kind] = tmp_path_factory.mktemp(kind)
            theirs.save_pretrained(made[kind])
        return made[kind]

    return make


def theirs_of(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base).eval()


def stir(parameters: Any, seed: int = 0) -> None:
    """Give the fresh parts of an adapter values: B is zero at first, and a bug in it would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters:
            if "lora_B" in name or "magnitude" in name:
                parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.2, generator=generator))


def adapted_by_peft(base: Path, folder: Path, **options: Any) -> Any:
    """A model of ``transformers`` with a random adapter of ``peft``, which is saved."""
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    model = peft.get_peft_model(theirs_of(base), peft.LoraConfig(**options)).eval()
    stir(model.named_parameters())
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    result = model(IDS)
    return result if isinstance(result, Tensor) else result.logits  # type: ignore[no-any-return]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() < 1e-5)


def moved(model: Transformer) -> bool:
    """Whether the adapter does something: otherwise its comparison would say nothing."""
    with without_adapter(model):
        before = logits(model)
    return bool((logits(model) - before).abs().max() > 1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_of_peft_gives_its_logits_unmerged_and_merged(
    bases: Callable[[str], Path], tmp_path: Path, kind: str, variant: str
) -> None:
    theirs = adapted_by_peft(bases(kind), tmp_path / "style", **VARIANTS[variant])
    model = load_model(bases(kind))
    base = logits(model)
    assert load_adapter(model, tmp_path / "style") == "style"
    unmerged = logits(model)
    assert close(unmerged, logits(theirs))
    assert moved(model)
    with without_adapter(model):
        assert torch.equal(logits(model), base)
    merge(model)
    assert close(logits(model), logits(theirs.merge_and_unload()))
    # Gemma's logits reach 4, and its norms after each block enlarge what merging rounds (in peft by as much).
    assert (logits(model) - unmerged).abs().max() < 1e-5 * unmerged.abs().max().clamp(min=1)
    assert adapter_names(model) == []
    assert [name for name, _ in model.named_parameters()] == [n for n, _ in load_model(bases(kind)).named_parameters()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["rslora", "dora", "patterns"])
def test_our_adapter_gives_its_logits_in_peft_and_its_bytes_come_back(
    bases: Callable[[str], Path], tmp_path: Path, kind: str, variant: str
) -> None:
    options = VARIANTS[variant]
    model = load_model(bases(kind))
    config = LoraConfig(
        3, 5.0, rslora=options.get("use_rslora", False), dora=options.get("use_dora", False),
        **{name: options.get(name, {}) for name in ("rank_pattern", "alpha_pattern")},
    )  # fmt: skip
    add_adapter(model, config, seed=3)
    stir(model.named_parameters())
    save_adapter(model, tmp_path / "ours")
    opened = peft.PeftModel.from_pretrained(theirs_of(bases(kind)), tmp_path / "ours").eval()
    assert close(logits(model), logits(opened))
    assert moved(model)
    again = load_model(bases(kind))
    load_adapter(again, tmp_path / "ours")
    assert torch.equal(logits(again), logits(model))
    save_adapter(again, tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "ours" / file).read_bytes()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_those_of_peft(bases: Callable[[str], Path], tmp_path: Path, kind: str, dora: bool) -> None:
    theirs = adapted_by_peft(bases(kind), tmp_path / "a", use_dora=dora)
    model = load_model(bases(kind))
    load_adapter(model, tmp_path / "a", trainable=True)
    weights = torch.linspace(-1, 1, VOCABULARY)
    (model(IDS) * weights).sum().backward()
    (theirs(IDS).logits * weights).sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if "adapters" not in name)
    # The gradients stand where the tensors stood, so that the writer joins them for us.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    save_adapter(model, tmp_path / "gradients")
    ours = load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    wanted = {
        name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): parameter.grad
        for name, parameter in theirs.named_parameters() if parameter.grad is not None
    }  # fmt: skip
    assert ours.keys() == wanted.keys()
    assert min(float(gradient.abs().max()) for gradient in ours.values()) > 1e-5
    for name, gradient in wanted.items():
        assert (ours[name] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("dora", [False, True])
def test_a_fresh_adapter_changes_no_bit_and_depends_on_its_seed_alone(
    bases: Callable[[str], Path], tmp_path: Path, dora: bool
) -> None:
    files = []
    for number, seed in enumerate((5, 5, 6)):
        model = load_model(bases("phi3"))
        before = logits(model)
        torch.manual_seed(number)
        add_adapter(model, LoraConfig(4, dropout=0.5, dora=dora), seed)
        assert torch.equal(logits(model), before)
        save_adapter(model, tmp_path / str(number))
        files.append((tmp_path / str(number) / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
    a = load_file(tmp_path / "0" / "adapter_model.safetensors")[
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    ]
    assert 0.9 * 24**-0.5 < a.abs().max() <= 24**-0.5


def test_dropout_acts_in_training_only(bases: Callable[[str], Path]) -> None:
    model = load_model(bases("llama"))
    add_adapter(model, LoraConfig(4, dropout=0.5, targets=("q_proj", "down_proj")), seed=0)
    stir(model.named_parameters())
    assert torch.equal(logits(model), logits(model))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(logits(model), logits(model))
    with without_adapter(model):
        assert torch.equal(logits(model), logits(model))


def test_several_adapters_lie_on_one_base_and_one_acts(bases: Callable[[str], Path]) -> None:
    model = load_model(bases("qwen2"))
    base, alone = logits(model), {}
    for name, targets in {"first": ("q_proj",), "second": ("q_proj", "up_proj"), "third": ("lm_head",)}.items():
        add_adapter(model, LoraConfig(2, targets=targets), seed=1, name=name)
        stir((n, p) for n, p in model.named_parameters() if f".{name}." in n)
        alone[name] = logits(model)
    assert adapter_names(model) == ["first", "second", "third"]
    assert active_adapter(model) == "third"
    for name, expected in alone.items():
        with with_adapter(model, name):
            assert torch.equal(logits(model), expected)
        assert active_adapter(model) == "third"
    assert len({tuple(one.flatten().tolist()) for one in (base, *alone.values())}) == 4
    remove_adapter(model, "third")
    assert torch.equal(logits(model), base)
    with pytest.raises(UserError, match="'third'"):
        activate(model, "third")
    remove_adapter(model, "first")
    activate(model, "second")
    assert torch.equal(logits(model), alone["second"])
    remove_adapter(model, "second")
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_only_the_new_adapter_wants_gradients(bases: Callable[[str], Path]) -> None:
    model = load_model(bases("gpt2"))
    add_adapter(model, LoraConfig(2, targets=("c_attn",)), seed=0, name="old")
    add_adapter(model, LoraConfig(2, targets=("c_attn",), whole=("embed_tokens",)), seed=0, name="new")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".adapters.new." in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2  # one for each layer, shared by queries, keys and values
    assert sum("lora_B" in name for name in trained) == 6


def test_a_merged_model_is_saved_as_any_other(bases: Callable[[str], Path], tmp_path: Path) -> None:
    adapted_by_peft(bases("phi3"), tmp_path / "a")
    model = load_model(bases("phi3"))
    load_adapter(model, tmp_path / "a")
    before = logits(model)
    merge(model)
    save_model(model, tmp_path / "merged", end_of_text=1, pad=0, eos=[2])
    assert close(logits(theirs_of(tmp_path / "merged")), before)


def test_a_merged_tie_is_cut_where_only_the_head_was_adapted(bases: Callable[[str], Path], tmp_path: Path) -> None:
    theirs = adapted_by_peft(bases("qwen2"), tmp_path / "a", target_modules=["lm_head", "v_proj"])
    model = load_model(bases("qwen2"))
    load_adapter(model, tmp_path / "a")
    assert close(logits(model), logits(theirs))
    effective = model.lm_head.weight  # what a loss multiplies by
    merge(model)
    assert torch.equal(model.lm_head.weight, effective)
    assert close(logits(model), logits(theirs))
    assert not model.config.tied
    save_model(model, tmp_path / "merged", end_of_text=1, pad=0, eos=[2])
    assert close(logits(theirs_of(tmp_path / "merged")), logits(theirs))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("saved", [("embed",), ("lm_head",), ("embed", "lm_head"), ("embed", "tie")])
def test_an_embedding_or_head_that_was_trained_whole(
    bases: Callable[[str], Path], tmp_path: Path, kind: str, saved: tuple[str, ...]
) -> None:
    names = {"embed": "wte" if kind == "gpt2" else "embed_tokens", "lm_head": "lm_head"}
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn" if kind == "gpt2" else "q_proj"], task_type="CAUSAL_LM",
        modules_to_save=[names[one] for one in saved if one != "tie"], ensure_weight_tying="tie" in saved,
    )  # fmt: skip
    theirs = peft.get_peft_model(theirs_of(bases(kind)), config).eval()
    stir(theirs.named_parameters())
    for name, parameter in theirs.named_parameters():
        if "modules_to_save" in name:
            nn.init.normal_(parameter, 0.0, 0.3)
    theirs.save_pretrained(tmp_path / "a")
    model = load_model(bases(kind))
    base = logits(model)
    load_adapter(model, tmp_path / "a")
    assert close(logits(model), logits(theirs))
    save_adapter(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    opened = peft.PeftModel.from_pretrained(theirs_of(bases(kind)), tmp_path / "again").eval()
    assert close(logits(model), logits(opened))
    with without_adapter(model):
        assert torch.equal(logits(model), base)
    merge(model)
    assert close(logits(model), logits(theirs))
    tied = kind == "qwen2" and "tie" in saved  # peft does not know the embedding of GPT-2 for one, and cuts its tie
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tied == tied


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_resized_vocabulary_comes_with_the_adapter(bases: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    resized = theirs_of(bases(kind))
    resized.resize_token_embeddings(VOCABULARY + 3)
    theirs = peft.get_peft_model(resized, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    stir(theirs.named_parameters())
    theirs.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    if kind == "qwen2":  # tied: a writer may leave out the second of two equal tensors
        rewrite(tmp_path / "a", lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    model = load_model(bases(kind))
    base = logits(model)
    load_adapter(model, tmp_path / "a")
    assert logits(model).shape[-1] == model.config.vocabulary == VOCABULARY + 3
    assert close(logits(model), logits(theirs))
    with without_adapter(model):
        assert torch.equal(logits(model), base)
        assert model.config.vocabulary == VOCABULARY
    merge(model)
    save_model(model, tmp_path / "merged", end_of_text=1, pad=0, eos=[2])
    assert close(logits(theirs_of(tmp_path / "merged")), logits(theirs))


def test_training_the_embedding_of_a_tied_model_keeps_the_tie(bases: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(bases("qwen2"))
    add_adapter(model, LoraConfig(2, whole=("embed_tokens",)), seed=0)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    save_adapter(model, tmp_path / "a")
    opened = peft.PeftModel.from_pretrained(theirs_of(bases("qwen2")), tmp_path / "a").eval()
    assert close(logits(model), logits(opened))


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_experts_one_by_one_open_in_peft(bases: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    model = load_model(bases(kind))
    names = ("w1", "w2", "w3") if kind == "mixtral" else ("gate_proj", "down_proj", "up_proj")
    add_adapter(model, LoraConfig(3, 5.0, targets=("q_proj", *names)), seed=2)
    stir(model.named_parameters())
    save_adapter(model, tmp_path / "a")
    opened = peft.PeftModel.from_pretrained(theirs_of(bases(kind)), tmp_path / "a").eval()
    assert close(logits(model), logits(opened))
    assert moved(model)


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v2"])
@pytest.mark.parametrize("parameters", [["gate_up_proj"], ["experts.down_proj"], ["gate_up_proj", "experts.down_proj"]])
def test_stacked_experts_of_peft(
    bases: Callable[[str], Path], tmp_path: Path, kind: str, parameters: list[str]
) -> None:
    options = {
        "target_modules": ["o_proj"],
        "target_parameters": [f"mlp.experts.{p.split('.')[-1]}" for p in parameters],
    }
    theirs = adapted_by_peft(bases(kind), tmp_path / "a", rank_pattern={r".*\.gate_up_proj": 5}, **options)
    model = load_model(bases(kind))
    load_adapter(model, tmp_path / "a")
    assert close(logits(model), logits(theirs))
    assert moved(model)
    save_adapter(model, tmp_path / "again")
    ours, before = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "a"))
    assert ours.keys() == before.keys()
    assert all(torch.equal(ours[name], before[name]) for name in before)
    opened = peft.PeftModel.from_pretrained(theirs_of(bases(kind)), tmp_path / "again").eval()
    assert close(logits(model), logits(opened))
    merge(model)
    assert close(logits(model), logits(theirs))


def test_latent_attention(bases: Callable[[str], Path], tmp_path: Path) -> None:
    targets = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
    theirs = adapted_by_peft(bases("deepseek_v2"), tmp_path / "a", target_modules=targets)
    model = load_model(bases("deepseek_v2"))
    load_adapter(model, tmp_path / "a")
    assert close(logits(model), logits(theirs))
    assert moved(model)


class Eighths(nn.Module):
    """A frozen map kept in int8, as a quantised base is."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = base.in_features, base.out_features, None
        self.register_buffer("weight", (base.weight.detach() * 64).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.to(x.dtype) / 64).T


def test_a_quantised_base_takes_an_adapter_and_refuses_to_merge(bases: Callable[[str], Path]) -> None:
    model = load_model(bases("phi3"))
    for block in model.model.layers:
        block.mlp.down_proj = Eighths(block.mlp.down_proj)  # type: ignore[assignment,operator,union-attr]
    base = logits(model)
    add_adapter(model, LoraConfig(2, targets=("down_proj",)), seed=0)
    assert torch.equal(logits(model), base)
    stir(model.named_parameters())
    assert moved(model)
    with pytest.raises(UserError, match="floating point"):
        merge(model)
    with pytest.raises(UserError, match="floating point"):
        add_adapter(model, LoraConfig(2, dora=True), seed=0, name="dora")
    assert adapter_names(model) == ["default"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(bases: Callable[[str], Path], tmp_path: Path, dtype: torch.dtype) -> None:
    adapted_by_peft(bases("gemma2"), tmp_path / "a", use_dora=True)
    exact, model = load_model(bases("gemma2")), load_model(bases("gemma2"), dtype)
    for one in (exact, model):
        load_adapter(one, tmp_path / "a")
    assert {p.dtype for n, p in model.named_parameters() if "lora" in n} == {torch.promote_types(dtype, torch.float32)}
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    assert logits(model).dtype == dtype
    assert (logits(model) - logits(exact)).abs().max() < tolerance * logits(exact).abs().max()
    merge(model)
    assert (logits(model) - logits(exact)).abs().max() < tolerance * logits(exact).abs().max()


def test_magnitudes_of_rows_of_zeros_stay_finite() -> None:
    from cadran.model.config import ModelConfig

    model = Transformer(ModelConfig(VOCABULARY, 1, WIDTH, 2, 1, 8, 24, 32), seed=0)  # output projections begin at zero
    add_adapter(model, LoraConfig(2, dora=True), seed=0)
    model(IDS).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Bad input


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


Q = "base_model.model.model.layers.1.self_attn.q_proj."
ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "kind": (lambda f: reconfigure(f, peft_type="IA3"), "'IA3'"),
    "no kind": (lambda f: reconfigure(f, peft_type=None), "'None'"),
    "biases": (lambda f: reconfigure(f, bias="all"), "biases"),
    "option": (lambda f: reconfigure(f, layer_replication=[[0, 1]]), "layer_replication"),
    "bias of B": (lambda f: reconfigure(f, lora_bias=True), "lora_bias"),
    "tokens": (lambda f: reconfigure(f, trainable_token_indices=[1]), "trainable_token_indices"),
    "start": (lambda f: reconfigure(f, init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    "text as rank": (lambda f: reconfigure(f, r="4"), "r as '4'"),
    "no rank": (lambda f: reconfigure(f, r=0), "at least 1"),
    "another rank": (lambda f: reconfigure(f, r=8), "rank 8"),
    "endless alpha": (lambda f: reconfigure(f, lora_alpha=float("inf")), "lora_alpha"),
    "all dropped": (lambda f: reconfigure(f, lora_dropout=1.0), "dropout"),
    "pattern": (lambda f: reconfigure(f, alpha_pattern={"(a+)+b": 1}), "too involved"),
    "no pattern": (lambda f: reconfigure(f, alpha_pattern={"(": 1}), "no regular expression"),
    "many patterns": (lambda f: reconfigure(f, rank_pattern={f"a{n}": 1 for n in range(20_000)}), "fewer"),
    "list as pattern": (lambda f: reconfigure(f, rank_pattern=[1]), "rank_pattern"),
    "no lengths": (lambda f: reconfigure(f, use_dora=True), "lora_magnitude_vector"),
    "broken": (lambda f: (f / "adapter_config.json").write_text("{"), "no adapter"),
    "long number": (lambda f: (f / "adapter_config.json").write_text("9" * 10_000), "no adapter"),
    "deep": (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), "no adapter"),
    "list": (lambda f: (f / "adapter_config.json").write_text("[]"), "no object"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "no adapter"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
    "cut": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-4]),
        "safetensors",
    ),
    "half a pair": (lambda f: rewrite(f, lambda t: t.pop(Q + "lora_B.weight")), "lacks lora_B"),
    "missing": (
        lambda f: rewrite(f, lambda t: [t.pop(Q + "lora_A.weight"), t.pop(Q + "lora_B.weight")]),
        "layers.1.self_attn.q_proj",
    ),
    "unknown module": (lambda f: rewrite(f, lambda t: [
        t.update({f"base_model.model.model.layers.7.mlp.up_proj.lora_{x}.weight": torch.ones(4, 4)}) for x in "AB"
    ]), "layers.7"),
    "unknown key": (
        lambda f: rewrite(f, lambda t: t.update({"base_model.model.score.weight": torch.ones(2)})), "score.weight"
    ),
    "no prefix": (lambda f: rewrite(f, lambda t: t.update({"lm_head.weight": torch.ones(2)})), "begin"),
    "embedding": (
        lambda f: rewrite(f, lambda t: t.update({"base_model.model.x.lora_embedding_B": torch.ones(2)})),
        "low-rank embedding",
    ),
    "integers": (lambda f: rewrite(f, lambda t: t.update({Q + "lora_A.weight": torch.ones(4, 16).int()})), "fractions"),
    "shape": (lambda f: rewrite(f, lambda t: t.update({Q + "lora_A.weight": torch.ones(4, 15)})), r"\(4, 15\)"),
    "axes": (lambda f: rewrite(f, lambda t: t.update({Q + "lora_A.weight": torch.ones(4)})), r"\(4,\)"),
    "narrow head": (
        lambda f: rewrite(f, lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(5, 3)})), "16 wide"
    ),
    "short head": (
        lambda f: rewrite(f, lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(5, 16)})), "the head"
    ),
    "other base": (
        lambda f: rewrite(f, lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.ones(61, 16)})),
        "another",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    adapted_by_peft(bases("llama"), folder, target_modules=["q_proj", "up_proj"])
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


@pytest.mark.parametrize("attack", ATTACKS)
def test_bad_files_are_refused_by_name_and_leave_the_model_as_it_was(
    bases: Callable[[str], Path], good: dict[str, bytes], tmp_path: Path, attack: str
) -> None:
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    change, said = ATTACKS[attack]
    change(tmp_path)
    model = load_model(bases("llama"))
    base = logits(model)
    with pytest.raises(UserError, match=said):
        load_adapter(model, tmp_path, "bad")
    assert adapter_names(model) == []
    assert torch.equal(logits(model), base)


def test_the_untouched_files_of_the_attacks_are_good(
    bases: Callable[[str], Path], good: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    model = load_model(bases("llama"))
    load_adapter(model, tmp_path, "good")
    assert moved(model)


def test_flipped_bytes_are_refused_or_read_never_worse(
    bases: Callable[[str], Path], good: dict[str, bytes], tmp_path: Path
) -> None:
    model = load_model(bases("llama"))
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for number in range(150):
        for name, content in good.items():
            broken = bytearray(content)
            reach = len(broken) if number % 2 else min(len(broken), 1500)
            for place in torch.randint(0, reach, (3,), generator=generator).tolist():
                broken[place] = int(torch.randint(0, 256, (1,), generator=generator))
            (tmp_path / name).write_bytes(content if (number % 3 == 0) == (name[-1] == "n") else broken)
        try:
            remove_adapter(model, load_adapter(model, tmp_path, "flipped"))
        except UserError:
            refused += 1
    assert 0 < refused < 150


def test_a_pickle_is_refused_with_the_way_out(
    bases: Callable[[str], Path], good: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_bytes(good["adapter_config.json"])
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="save_pretrained"):
        load_adapter(load_model(bases("llama")), tmp_path)


def test_mistakes_of_the_caller_are_named(bases: Callable[[str], Path]) -> None:
    model = load_model(bases("phi3"))
    with pytest.raises(UserError, match=r"no linear map called 'q_proj'.*qkv_proj"):
        add_adapter(model, LoraConfig(targets=("q_proj",)), seed=0)
    with pytest.raises(UserError, match="called 'train'"):
        add_adapter(model, LoraConfig(), seed=0, name="train")
    with pytest.raises(UserError, match="trained whole"):
        LoraConfig(whole=("norm",))
    with pytest.raises(UserError, match="no adapter acts"):
        merge(model)
    add_adapter(model, LoraConfig(), seed=0)
    with pytest.raises(UserError, match="already"):
        add_adapter(model, LoraConfig(), seed=0)


def test_the_router_of_experts_is_no_target(bases: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="no linear map called 'gate'"):
        add_adapter(load_model(bases("mixtral")), LoraConfig(targets=("gate",)), seed=0)


@given(st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 4))
def test_dealing_factors_out_loses_nothing(experts: int, rows: list[int], rank: int, inputs: int) -> None:
    paths = tuple(tuple(f"{expert}.{number}" for number in range(len(rows))) for expert in range(experts))
    site = Site("experts", paths, tuple(rows), inputs)
    a, b = (torch.randn(shape) for shape in site.shapes(rank))
    dealt = list(site.split(a, b))
    assert [own for own, _, _ in dealt] == list(paths)
    assert all(own.shape == (rank, inputs) for _, own, _ in dealt)
    assert all([part.shape[0] for part in parts] == rows for _, _, parts in dealt)
    joined = site.join([(own, parts) for _, own, parts in dealt])
    assert torch.equal(joined[0], a)
    assert torch.equal(joined[1], b)


def test_patterns_match_as_those_of_peft() -> None:
    from peft.utils.other import get_pattern_key

    patterns = ["q_proj", r".*1\..*", "^model.layers.0.mlp.up_proj", "layers.2.mlp.(up|down)_proj", "layers"]
    names = [
        f"model.layers.{n}.{m}" for n in (0, 1, 2, 12) for m in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    ]
    for name in names:
        ours = of_pattern({pattern: pattern for pattern in patterns}, Site(name, (), (), 0), name)
        assert ours == get_pattern_key(patterns, name)
