"""The Transformer against ``transformers``' Qwen3, against itself, and against the rules of causality."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.model.attention import LONGEST_PLAIN_CONTEXT, attend, document_bias
from cadran.model.cache import KVCache
from cadran.model.checkpoint import load_model, save_model
from cadran.model.config import ModelConfig, Rope
from cadran.model.rope import rotary_tables
from cadran.model.rotate import rotate
from cadran.model.transformer import Transformer

SMALL = ModelConfig(
    vocabulary=97, layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48, context=64, tied=True
)


def scattered(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose every weight is random: the initial zeros would hide mistakes."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(st.integers(1, 3))
    return ModelConfig(
        vocabulary=draw(st.integers(8, 120)),
        layers=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([16, 24, 40])),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_width=draw(st.sampled_from([4, 8, 10])),
        hidden=draw(st.sampled_from([16, 36])),
        context=64,
        tied=draw(st.booleans()),
        rope=Rope(base=draw(st.sampled_from([100.0, 10_000.0]))),
    )


@settings(max_examples=12)
@given(config=configs(), seed=st.integers(0, 5))
def test_saved_directory_gives_transformers_the_same_bits_of_logits(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, seed: int
) -> None:
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("model")
    model = scattered(config, seed)
    save_model(model, folder, end_of_text=0, pad=3, eos=[0])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    ids = torch.randint(0, config.vocabulary, (2, 17), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert torch.equal(model(ids), theirs(ids).logits)


def test_gradients_equal_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = scattered(SMALL)
    save_model(model, tmp_path, end_of_text=0, pad=3, eos=[0])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).train()
    ids = torch.randint(0, SMALL.vocabulary, (3, 20), generator=torch.Generator().manual_seed(1))
    ours_loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].reshape(-1, 97), ids[:, 1:].reshape(-1))
    ours_loss.backward()
    theirs_loss = theirs(ids, labels=ids).loss
    theirs_loss.backward()
    assert ours_loss.item() == pytest.approx(theirs_loss.item(), abs=1e-6)
    named = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, named[name].grad, atol=1e-5, rtol=1e-4), name


@given(config=configs(), cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(max_examples=12)
def test_cached_forward_equals_whole_forward(config: ModelConfig, cuts: list[int]) -> None:
    model = scattered(config)
    ids = torch.randint(0, config.vocabulary, (2, sum(cuts)), generator=torch.Generator().manual_seed(2))
    cache = KVCache(config, batch=2, capacity=sum(cuts))
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split(cuts, dim=1)]
        assert torch.allclose(torch.cat(pieces, 1), model(ids), atol=1e-5)


def test_cache_refuses_more_than_its_capacity() -> None:
    cache = KVCache(SMALL, batch=1, capacity=3)
    with pytest.raises(ValueError, match="holds 3"):
        scattered(SMALL)(torch.zeros(1, 4, dtype=torch.int64), cache)


def test_no_gradient_flows_from_a_token_to_its_past_or_to_another_document() -> None:
    """d hidden[t] / d embedding[s] is exactly zero for s > t and for s in another document."""
    model = scattered(SMALL)
    ids = torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(3))
    segments = torch.tensor([[0] * 5 + [1] * 7])
    embedded = model.model.embed_tokens(ids).detach().requires_grad_()
    model.model.embed_tokens.forward = lambda _: embedded  # type: ignore[method-assign]
    hidden = model.hidden_states(ids, document_bias(segments, torch.float32))
    for t in range(12):
        (gradient,) = torch.autograd.grad(hidden[0, t].sum(), embedded, retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        expected = [(s <= t and (s < 5) == (t < 5)) for s in range(12)]
        assert reached.tolist() == expected, t


def test_packed_logits_equal_unpacked_logits() -> None:
    model = scattered(SMALL)
    generator = torch.Generator().manual_seed(4)
    documents = [torch.randint(0, 97, (n,), generator=generator) for n in (7, 1, 13, 4)]
    packed = torch.cat(documents)[None]
    segments = torch.cat([torch.full((len(d),), i) for i, d in enumerate(documents)])[None]
    with torch.no_grad():
        hidden = model.hidden_states(packed, document_bias(segments, torch.float32))
        alone = torch.cat([model.lm_head(model.hidden_states(d[None], causal(len(d)))) for d in documents], 1)
    assert torch.allclose(model.lm_head(hidden), alone, atol=1e-5)


def causal(length: int) -> torch.Tensor:
    return document_bias(torch.zeros(1, length, dtype=torch.int32), torch.float32)


@pytest.mark.parametrize("shape", [(2, 4, 9, 8), (1, 2, 33, 4)])
def test_plain_attention_equals_the_fused_kernel_forward_and_backward(shape: tuple[int, int, int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    segments = (torch.arange(shape[2]) // 5)[None].expand(shape[0], -1)
    bias = document_bias(segments, torch.float64)
    assert shape[2] <= LONGEST_PLAIN_CONTEXT  # so that `attend` takes the plain path
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours = attend(q, k, v, bias)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    assert torch.allclose(ours, theirs, atol=1e-12)
    for mine, fused in zip(
        torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(theirs, (q, k, v), upstream), strict=True
    ):
        assert torch.allclose(mine, fused, atol=1e-12)


def test_every_hand_written_gradient_agrees_with_finite_differences() -> None:
    """The whole model in float64: attention, rotation, SwiGLU, norms."""
    config = ModelConfig(
        vocabulary=11, layers=2, width=8, heads=2, kv_heads=1, head_width=4, hidden=12, context=16, tied=False
    )
    model = scattered(config).double()
    ids = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(6))
    bias = document_bias(torch.tensor([[0, 0, 0, 1, 1, 1], [0] * 6]), torch.float64)
    names = [name for name, _ in model.named_parameters()]

    def run(*values: torch.Tensor) -> torch.Tensor:
        weights = dict(zip(names, values, strict=True))
        return torch.func.functional_call(Wrapped(model, ids, bias), {f"inner.{n}": w for n, w in weights.items()}, ())

    parameters = tuple(p.detach().clone().requires_grad_() for _, p in model.named_parameters())
    assert torch.autograd.gradcheck(run, parameters, fast_mode=True, atol=1e-6)


class Wrapped(torch.nn.Module):
    """Calls ``hidden_states`` through ``forward``, so that ``functional_call`` can replace the weights."""

    def __init__(self, inner: Transformer, ids: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.ids, self.bias = inner, ids, bias

    def forward(self) -> torch.Tensor:
        return self.inner.hidden_states(self.ids, self.bias)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    y = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    def turned(z: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(z, *(t.double() for t in rotary_tables(torch.tensor([position]), 8, Rope(100.0), 64)))

    assert torch.allclose(turned(x, 11).norm(), x.norm())
    near, far = (turned(x, 3) * turned(y, 1)).sum(), (turned(x, 23) * turned(y, 21)).sum()
    assert near.item() == pytest.approx(far.item(), abs=1e-5)
    assert not torch.allclose(turned(x, 3), turned(x, 4))


def test_initial_loss_is_the_logarithm_of_the_vocabulary() -> None:
    for tied in (True, False):
        config = ModelConfig(
            vocabulary=300, layers=2, width=32, heads=2, kv_heads=2, head_width=16, hidden=64, context=32, tied=tied
        )
        ids = torch.randint(0, 300, (4, 30), generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            logits = Transformer(config, seed=0)(ids)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 300), ids[:, 1:].reshape(-1))
        assert loss.item() == pytest.approx(math.log(300), abs=0.05)


def test_parameter_count_is_what_the_model_has() -> None:
    for tied in (True, False):
        config = ModelConfig(
            vocabulary=50, layers=3, width=24, heads=3, kv_heads=1, head_width=8, hidden=40, context=8, tied=tied
        )
        assert config.parameters == sum(p.numel() for p in Transformer(config).parameters())


def test_saved_and_loaded_weights_are_the_same_bytes(tmp_path: Path) -> None:
    model = scattered(SMALL)
    save_model(model, tmp_path / "a", end_of_text=0, pad=3, eos=[0, 2])
    save_model(load_model(tmp_path / "a"), tmp_path / "b", end_of_text=0, pad=3, eos=[0, 2])
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_damaged_or_foreign_models_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model directory"):
        load_model(tmp_path)
    save_model(scattered(SMALL), tmp_path, end_of_text=0, pad=3, eos=[0])
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"hidden_size": 64}))
    with pytest.raises(UserError, match=r"config.json says"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="mamba"):
        load_model(tmp_path)


def test_impossible_sizes_are_refused_with_the_option_to_set() -> None:
    names = ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context")
    sizes = dict(zip(names, (10, 1, 8, 3, 2, 4, 8, 8), strict=True))
    with pytest.raises(UserError, match="kv_heads=3"):
        ModelConfig(**sizes)
    with pytest.raises(UserError, match="head_width=6"):
        ModelConfig(**(sizes | {"kv_heads": 3, "head_width": 5}))
    with pytest.raises(UserError, match="layers"):
        ModelConfig(**(sizes | {"kv_heads": 3, "layers": 0}))
