"""Reference log-probabilities: the same whether kept or computed again, and the policy's own before the first step."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cadran.align import reference as reference_file
from cadran.align.branches import Prompted, pack_for, per_answer
from cadran.align.logprobs import model_logprobs
from cadran.align.reference import adapter_off, answer_logprobs, frozen, item_logprobs
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.lora import LoraConfig, active_adapter, add_adapter
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(
    vocabulary=31, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, context=32, tied=True
)
ITEMS = [
    Prompted((5, 6, 7), ((8, 9, 10, 1), (11, 1))),
    Prompted((12,), ((13,), (14, 15, 16)), ((True,), (True, False, True))),
    Prompted((17, 18, 19, 20), ((1,), (23, 24, 25, 26, 27, 1))),
    Prompted((3, 4), ((5, 6), (7, 8, 9))),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def tiny(noise_seed: int = 2) -> Transformer:
    model = Transformer(CONFIG, seed=1)
    generator = torch.Generator().manual_seed(noise_seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def adapted() -> Transformer:
    """With an adapter that has learnt something."""
    model = tiny()
    add_adapter(model, LoraConfig(rank=2, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(5))
    return model


def test_answers_are_scored_as_in_a_plain_forward_pass() -> None:
    model = tiny().double()
    found = item_logprobs(model, ITEMS, micro=3)
    expected = []
    for item in ITEMS:
        for number, answer in enumerate(item.answers):
            ids = torch.tensor([item.prompt + answer])
            each = model(ids).log_softmax(-1)[0, len(item.prompt) - 1 : -1].gather(1, ids[0, len(item.prompt) :, None])
            flags = torch.tensor(item.supervised[number]) if item.supervised else torch.ones(len(answer))
            expected.append((each[:, 0] * flags).sum())
    assert torch.allclose(found, torch.stack(expected), atol=1e-12)


def test_kept_and_computed_again_are_the_same_bits_on_the_same_batches(tmp_path: Path) -> None:
    base, model = tiny(), adapted()
    again = adapter_off(model)
    kept = item_logprobs(base, ITEMS, micro=2, cache=tmp_path)
    computed = torch.cat([again(pack_for(model, ITEMS[start : start + 2])) for start in (0, 2)])
    assert active_adapter(model) == "default"
    assert torch.equal(kept, item_logprobs(base, ITEMS, micro=2, cache=tmp_path))
    # Three maps of the same input are one product without an adapter: equal to rounding only.
    assert torch.allclose(kept, computed, atol=1e-5)
    fresh = tiny()
    add_adapter(fresh, LoraConfig(rank=2), seed=0)  # B = 0
    assert torch.equal(item_logprobs(fresh, ITEMS, micro=2, cache=tmp_path), computed)
    assert not torch.allclose(item_logprobs(model, ITEMS, micro=2), computed, atol=1e-2)
    assert torch.allclose(item_logprobs(base, ITEMS, micro=3), kept, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen_too", [False, True])
def test_reference_has_the_bits_of_the_policy_that_wants_gradients(dtype: torch.dtype, frozen_too: bool) -> None:
    policy, other = tiny(), tiny().requires_grad_(not frozen_too)
    batch = pack_for(policy, ITEMS)
    trained = per_answer(model_logprobs(policy, batch, dtype=dtype)[0], batch)
    assert trained.requires_grad
    for given in (torch.no_grad, torch.enable_grad):
        with given():
            found = frozen(other, dtype)(batch)
        assert torch.equal(found, trained) and not found.requires_grad
    assert not other.model.embed_tokens._forward_hooks
    assert all(parameter.grad is None for parameter in other.parameters())


def test_dropout_is_off_in_the_reference_and_the_mode_is_left_as_it_was() -> None:
    model = adapted().train()
    batch = pack_for(model, ITEMS)
    assert torch.equal(answer_logprobs(model, batch), answer_logprobs(model, batch))
    assert model.training


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are computed from now on."""
    sizes: list[int] = []
    original = reference_file.answer_logprobs

    def counting(model: Transformer, batch: object, dtype: torch.dtype | None = None) -> torch.Tensor:
        sizes.append(1)
        return original(model, batch, dtype)  # type: ignore[arg-type]

    monkeypatch.setattr(reference_file, "answer_logprobs", counting)
    return sizes


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    first = item_logprobs(tiny(), ITEMS, micro=2, cache=tmp_path)
    assert len(passes) == 2
    assert torch.equal(item_logprobs(tiny(), ITEMS, micro=1, cache=tmp_path), first)
    assert len(passes) == 2 and len(list(tmp_path.iterdir())) == 1


def test_other_weights_items_or_types_are_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    item_logprobs(tiny(), ITEMS, micro=4, cache=tmp_path)
    item_logprobs(tiny(noise_seed=3), ITEMS, micro=4, cache=tmp_path)
    item_logprobs(tiny(), ITEMS[::-1], micro=4, cache=tmp_path)
    item_logprobs(tiny(), ITEMS, micro=4, dtype=torch.bfloat16, cache=tmp_path)
    assert len(passes) == 4 and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped header", "other key", "not finite"])
def test_a_damaged_file_is_replaced(damage: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    first = item_logprobs(tiny(), ITEMS, micro=2, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    if damage == "cut":
        path.write_bytes(good[:-3])
    elif damage == "flipped header":
        path.write_bytes(b"\xff" + good[1:])
    elif damage == "other key":
        save_file({"logprobs": torch.zeros(8)}, path, {"key": "of another"})
    else:
        path.write_bytes(good[:-4] + torch.tensor(float("nan")).numpy().tobytes())
    assert torch.equal(item_logprobs(tiny(), ITEMS, micro=2, cache=tmp_path), first)
    assert path.read_bytes() == good


def test_a_model_without_an_adapter_is_no_reference_of_itself() -> None:
    with pytest.raises(UserError, match="no adapter to switch off"):
        adapter_off(tiny())
