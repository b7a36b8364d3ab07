"""The reward model: the right token is scored whatever stands around it, and others open what we write."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cadran.align.branches import Prompted, pack_for
from cadran.align.reward_model import RewardModel
from cadran.errors import UserError
from cadran.model.attention import causal_bias
from cadran.model.config import ModelConfig, Rope
from cadran.model.lora import LoraConfig, active_adapter, add_adapter
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(
    vocabulary=31, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, context=32, tied=True
)
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"family": "llama", "qk_norm": None, "tied": False},
    "gpt2": {
        "family": "gpt2", "qk_norm": None, "rope": None, "norm": "layer", "activation": "gelu_tanh", "gated": False,
        "qkv_bias": True, "output_bias": True, "mlp_bias": True, "kv_heads": 2,
    },
    "gemma3_text": {
        "family": "gemma3_text", "norm_offset": 1.0, "norm_order": "both", "activation": "gelu_tanh", "window": 4,
        "windowed": (True, False), "embedding_scale": 4.0, "local_rope": Rope(), "attention_scale": 8**-0.5,
    },
}  # fmt: skip
STOP = 1
ITEMS = [
    Prompted((5, 6, 7), ((8, 9, 10, STOP), (11, STOP))),
    Prompted((12,), ((13,), (14, 15, 16))),  # length 1, and no stop token at all
    Prompted((17, 18, 19, 20, 21, 22), ((STOP,), (23, 24, 25, 26, 27, 28, 29, STOP))),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def reward_model(dtype: torch.dtype = torch.float32, **changes: Any) -> RewardModel:
    """With every parameter away from its special first value."""
    transformer = Transformer(ModelConfig(**({**vars_of(CONFIG)} | changes)), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return RewardModel(transformer.to(dtype), seed=3).eval()


def vars_of(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def alone(model: RewardModel, ids: tuple[int, ...]) -> torch.Tensor:
    """The score of one sequence, in a row of its own."""
    weight = model.score.weight
    bias = causal_bias(len(ids), 0, weight.dtype, weight.device)
    states = model.transformer.hidden_states(torch.tensor([ids]), bias)
    return (states[0, -1] * weight[0]).sum()


def test_the_last_real_token_of_each_answer_is_scored() -> None:
    model = reward_model(torch.float64)
    scores = model.scores(pack_for(model.transformer, ITEMS))
    expected = [alone(model, item.prompt + answer) for item in ITEMS for answer in item.answers]
    assert torch.allclose(scores, torch.stack(expected), atol=1e-12)
    # The token before would give something else, so the test can tell them apart.
    before = [alone(model, (item.prompt + answer)[:-1]) for item in ITEMS for answer in item.answers]
    assert bool(((scores - torch.stack(before)).abs() > 1e-3).all())


def test_neither_padding_nor_neighbours_move_a_score() -> None:
    model = reward_model()
    together = model.scores(pack_for(model.transformer, ITEMS))
    assert torch.equal(together, model.scores(pack_for(model.transformer, ITEMS, pad=STOP)))
    reversed_order = model.scores(pack_for(model.transformer, ITEMS[::-1])).view(-1, 2).flip(0).reshape(-1)
    assert torch.allclose(together, reversed_order, atol=1e-6)
    singly = [
        model.scores(pack_for(model.transformer, [Prompted(item.prompt, (answer,))]))
        for item in ITEMS
        for answer in item.answers
    ]
    assert torch.allclose(together, torch.cat(singly), atol=1e-6)
    assert float(together.detach().std()) > 0.05


def test_scalar_head_is_drawn_small_by_its_seed_alone() -> None:
    first, transformer = reward_model(), Transformer(CONFIG, seed=1)
    state = torch.get_rng_state()
    second = RewardModel(transformer, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.score.weight, second.score.weight)
    assert not torch.equal(first.score.weight, RewardModel(Transformer(CONFIG, seed=1), seed=4).score.weight)
    wide = RewardModel(Transformer(ModelConfig(**(vars_of(CONFIG) | {"width": 4096, "layers": 1})), seed=0), seed=0)
    assert float(wide.score.weight.detach().std()) == pytest.approx(4097**-0.5, rel=0.05)


def test_normalised_rewards_have_mean_0_and_deviation_1_and_keep_their_order() -> None:
    model = reward_model()
    batches = [pack_for(model.transformer, ITEMS[:2]), pack_for(model.transformer, ITEMS[2:])]
    raw = torch.cat([model.scores(batch) for batch in batches])
    assert torch.equal(raw, torch.cat([model.rewards(batch) for batch in batches]))
    model.normalise(batches)
    rewards = torch.cat([model.rewards(batch) for batch in batches]).detach()
    assert float(rewards.mean()) == pytest.approx(0, abs=1e-5)
    assert float(rewards.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(rewards.argsort(), raw.argsort())
    assert torch.equal(raw, torch.cat([model.scores(batch) for batch in batches]))
    with pytest.raises(UserError, match="cannot be normalised"):
        model.normalise([pack_for(model.transformer, [Prompted((3,), ((4,),))])])


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_the_same_scores(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = reward_model(**FAMILIES[family])
    model.normalise([pack_for(model.transformer, ITEMS)])
    model.save(tmp_path, end_of_text=0, pad=0, eos=[STOP])
    theirs, about = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not about["missing_keys"] and not about["unexpected_keys"] and not about["mismatched_keys"]
    assert type(theirs).__name__ == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert theirs.config.num_labels == 1
    rows = [item.prompt + answer for item in ITEMS for answer in item.answers]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
    assert torch.allclose(model.scores(pack_for(model.transformer, ITEMS)), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_opened_it_rewards_alike(family: str, tmp_path: Path) -> None:
    model = reward_model(**FAMILIES[family])
    batch = pack_for(model.transformer, ITEMS)
    model.normalise([batch])
    for folder in ("first", "second"):
        model.save(tmp_path / folder, end_of_text=0, pad=0, eos=[STOP])
    opened = RewardModel.load(tmp_path / "first")
    assert torch.equal(opened.rewards(batch), model.rewards(batch))
    assert "lm_head.weight" not in load_file(tmp_path / "first" / "model.safetensors")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_an_adapter_is_merged_into_the_file_and_stays_on_the_model(tmp_path: Path) -> None:
    model = reward_model()
    add_adapter(model.transformer, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(5))
    trained = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"lora_A", "lora_B", "weight"}
    assert model.score.weight.requires_grad and not model.transformer.model.embed_tokens.weight.requires_grad
    batch = pack_for(model.transformer, ITEMS)
    before = model.scores(batch)
    model.save(tmp_path, end_of_text=0, pad=0, eos=[STOP])
    assert active_adapter(model.transformer) == "default"
    assert torch.equal(model.scores(batch), before)
    assert torch.allclose(RewardModel.load(tmp_path).scores(batch), before, atol=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    reward_model().save(tmp_path, end_of_text=0, pad=0, eos=[STOP])
    weights, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())

    def refused(message: str, changed: dict[str, torch.Tensor] | None = None, **fields: Any) -> None:
        save_file(changed or weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config | fields))
        with pytest.raises(UserError, match=message):
            RewardModel.load(tmp_path)

    refused("no reward model", {name: tensor for name, tensor in weights.items() if name != "score.weight"})
    refused("one label", weights | {"score.weight": torch.zeros(2, 16)})
    refused("no fractions", weights | {"score.weight": torch.zeros(1, 16, dtype=torch.int64)})
    refused("has shape", hidden_size=8, num_attention_heads=1)
    refused("speaks of 4000 layers", num_hidden_layers=4000)
    refused("reward_scale", reward_scale=0.0)
    refused("reward_shift", reward_shift="far")
