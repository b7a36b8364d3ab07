"""Generation: the same seed gives the same text; the sampler's distribution is the stated one."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.engine.engine import Engine
from cadran.engine.sampler import Sampler, SamplingParams, probabilities
from cadran.errors import UserError
from cadran.model.checkpoint import save_model
from cadran.model.config import ModelConfig
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.lora_files import save_adapter
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = ["L'été, la rivière est calme.", "In summer the river is calm; nobody fishes.", "😀 ça va ?"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 320)


@pytest.fixture
def engine(tokenizer: Tokenizer) -> Engine:
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=2, width=32, heads=2, kv_heads=1, head_width=16, hidden=64,
        context=96, tied=True,
    )  # fmt: skip
    model = Transformer(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Engine(model.eval(), tokenizer, ChatRenderer(tokenizer))


def said(engine: Engine, prompt: str, params: SamplingParams) -> str:
    return "".join(event.text for event in engine.generate(prompt, params))


def test_the_same_seed_gives_the_same_text_after_anything_else(engine: Engine) -> None:
    params = SamplingParams(temperature=1.0, seed=5, max_tokens=30)
    first = said(engine, "L'été", params)
    said(engine, "In summer the river", SamplingParams(seed=9, max_tokens=10))
    assert said(engine, "L'été", params) == first
    assert said(engine, "L'été", SamplingParams(temperature=1.0, seed=6, max_tokens=30)) != first


def test_greedy_generation_follows_the_whole_forward_pass(engine: Engine, tokenizer: Tokenizer) -> None:
    events = list(engine.generate("La rivière", SamplingParams(temperature=0, max_tokens=25)))
    tokens = [event.token for event in events if event.token is not None]
    ids = [tokenizer.end_of_text, *tokenizer.encode("La rivière")]
    for token in tokens:
        with torch.no_grad():
            assert int(engine.model(torch.tensor([ids]))[0, -1].argmax()) == token
        ids.append(token)
    assert events[-1].finish in ("stop", "length")
    assert "".join(event.text for event in events) == tokenizer.decode(tokens)


def test_an_answer_ends_with_the_context_and_a_prompt_that_fills_it_is_refused(engine: Engine) -> None:
    events = list(engine.stream([7] * 90, SamplingParams(temperature=0, max_tokens=500), stop_ids=[]))
    assert sum(event.token is not None for event in events) == 96 - 90 and events[-1].finish == "length"
    with pytest.raises(UserError, match="reads 96"):
        list(engine.stream([7] * 96, SamplingParams(), stop_ids=[]))


def test_stop_tokens_end_the_answer_and_are_not_part_of_it(engine: Engine) -> None:
    free = [e.token for e in engine.stream([7, 9], SamplingParams(temperature=0, max_tokens=8), stop_ids=[])][:-1]
    third = free[2]
    events = list(engine.stream([7, 9], SamplingParams(temperature=0, max_tokens=8), stop_ids=[third]))
    assert [e.token for e in events] == [*free[: free.index(third)], None] and events[-1].finish == "stop"


def test_a_long_conversation_forgets_its_oldest_turns_and_keeps_the_system_message(engine: Engine) -> None:
    turns = [{"role": "system", "content": "calme"}]
    for number in range(12):
        turns += [{"role": "user", "content": f"été {number}"}, {"role": "assistant", "content": "rivière"}]
    turns.append({"role": "user", "content": "😀"})
    seen: list[list[int]] = []
    original = engine.stream
    engine.stream = lambda ids, *rest, **options: seen.append(list(ids)) or original(ids, *rest, **options)  # type: ignore[method-assign]
    list(engine.chat(turns, SamplingParams(temperature=0, max_tokens=5)))
    text = engine.tokenizer.decode(seen[0])
    assert len(seen[0]) + 5 <= 96 and "calme" in text and "😀" in text and "été 0" not in text


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=30),
    temperature=st.floats(0.1, 5),
    top_p=st.floats(0.05, 1),
    top_k=st.integers(0, 30),
)
def test_the_distribution_is_the_softmax_of_the_kept_tokens(
    logits: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
    weights = probabilities(np.array(logits), params)
    assert weights.sum() == pytest.approx(1.0)
    kept = np.flatnonzero(weights)
    assert len(kept) >= 1 and (not top_k or len(kept) <= top_k)
    plain = np.exp(np.array(logits) / temperature - max(logits) / temperature)
    assert np.allclose(weights[kept] / weights[kept].sum(), plain[kept] / plain[kept].sum())
    if len(kept) < len(logits):
        assert plain[kept].min() >= np.delete(plain, kept).max() - 1e-12


def test_nucleus_is_the_smallest_set_that_reaches_its_share() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.9, 3), (1.0, 4)):
        weights = probabilities(logits, SamplingParams(temperature=1.0, top_p=top_p - 1e-9 if top_p < 1 else 1.0))
        assert np.count_nonzero(weights) == kept, top_p


def test_draws_over_positions_follow_the_probabilities() -> None:
    shares = np.array([0.6, 0.3, 0.1])
    params = SamplingParams(temperature=1.0, top_p=1.0, seed=3)
    sampler = Sampler(params, ())
    drawn = Counter(sampler.choose(np.log(shares), position).token for position in range(4000))
    for token, share in enumerate(shares):
        assert abs(drawn[token] / 4000 - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"max_tokens": 0}, {"seed": -1}):
        with pytest.raises(UserError, match=next(iter(wrong)).replace("_", ".")):
            SamplingParams(**wrong)


def test_a_model_talks_through_an_adapter(engine: Engine, tmp_path: Path) -> None:
    """What a folder and an adapter say together is what the model with that adapter says."""
    save_model(engine.model, tmp_path / "model", end_of_text=0, pad=3, eos=[0, 2])
    engine.tokenizer.save(tmp_path / "model", chat=True)
    params = SamplingParams(temperature=0, max_tokens=12)
    before = said(engine, "L'été", params)
    add_adapter(engine.model, LoraConfig(rank=4), seed=1)
    with torch.no_grad():
        for name, factor in engine.model.named_parameters():
            if factor.requires_grad:
                factor.add_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(len(name))))
    save_adapter(engine.model, tmp_path / "adapter")
    with_it = said(Engine(engine.model, engine.tokenizer, None), "L'été", params)
    assert with_it != before
    assert (
        said(Engine.load(tmp_path / "model", adapter=tmp_path / "adapter", runner="torch"), "L'été", params) == with_it
    )
    assert said(Engine.load(tmp_path / "model", runner="torch"), "L'été", params) == before


def test_rows_of_the_embedding_without_a_token_are_never_drawn(engine: Engine, tokenizer: Tokenizer) -> None:
    wide = Transformer(
        dataclasses.replace(engine.model.config, vocabulary=tokenizer.vocabulary_size + 7), seed=0
    ).eval()
    with torch.no_grad():
        wide.model.norm.weight.fill_(0.0)  # all logits are equal
    events = Engine(wide, tokenizer, None).generate("été", SamplingParams(temperature=5.0, top_p=1.0, max_tokens=60))
    assert all(event.token is None or event.token < tokenizer.vocabulary_size for event in events)


def test_a_model_without_a_template_is_not_guessed_at(engine: Engine) -> None:
    with pytest.raises(UserError, match="--template"):
        Engine(engine.model, engine.tokenizer, None).chat([{"role": "user", "content": "ça va ?"}], SamplingParams())
