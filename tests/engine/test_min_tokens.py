"""An answer may be asked to have so many tokens before anything but a grammar ends it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError
from cadran.model.checkpoint import save_model
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe

TEXTS = ["L'été, la rivière est calme.", "In summer the river is calm; nobody fishes."] * 4


@pytest.fixture(scope="module", params=["native", "torch"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("short")
    tokenizer = train_bpe(TEXTS, 300)
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=1, width=32, heads=2, kv_heads=1, head_width=16, hidden=64,
        context=96, tied=True,
    )  # fmt: skip
    save_model(
        Transformer(config, seed=3).eval(), folder, end_of_text=tokenizer.end_of_text, pad=tokenizer.pad,
        eos=[tokenizer.end_of_text],
    )  # fmt: skip
    tokenizer.save(folder, chat=False)
    opened: Engine = Engine.load(Path(folder), runner=request.param, kv="f32")
    return opened


def tokens(engine: Engine, prompt: list[int], temperature: float, **options: object) -> list[int]:
    events = list(engine.stream(prompt, temperature=temperature, top_p=1.0, seed=prompt[0], **options))
    return [event.token for event in events if event.token is not None]


PROMPTS = st.lists(st.integers(0, 270), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(prompt=PROMPTS, temperature=st.sampled_from([0.0, 1.0]), least=st.integers(1, 30), cut=st.integers(0, 20))
def test_no_stop_id_ends_it_before(engine: Engine, prompt: list[int], temperature: float, least: int, cut: int) -> None:
    free = tokens(engine, prompt, temperature, max_tokens=31, stop_ids=())
    stop = free[cut]
    kept = tokens(engine, prompt, temperature, max_tokens=40, stop_ids=(stop,), min_tokens=least)
    assert len(kept) >= least and stop not in kept


@settings(max_examples=25, deadline=None)
@given(prompt=PROMPTS, least=st.integers(1, 30), cut=st.integers(0, 20))
def test_the_likeliest_tokens_stay_and_it_ends_where_it_may(
    engine: Engine, prompt: list[int], least: int, cut: int
) -> None:
    free = tokens(engine, prompt, 0.0, max_tokens=31, stop_ids=())
    first = free.index(free[cut])
    kept = tokens(engine, prompt, 0.0, max_tokens=40, stop_ids=(free[cut],), min_tokens=least)
    assert kept == free[:first] if first >= least else kept[:first] == free[:first]


def test_whether_chosen_by_the_core_or_here_it_is_the_same(engine: Engine) -> None:
    for seed in range(6):
        prompt = [seed, 9, 7]
        stop = tokens(engine, prompt, 1.0, max_tokens=4, stop_ids=())[2]
        asked = {"max_tokens": 30, "stop_ids": (stop,), "min_tokens": 8}
        assert tokens(engine, prompt, 1.0, **asked) == tokens(engine, prompt, 1.0, logprobs=True, **asked)


def test_a_stop_string_within_them_is_text(engine: Engine) -> None:
    with engine.stream([5, 9, 7], temperature=0, max_tokens=30, stop_ids=()) as free:
        text = str(free)
    stop = text[2:4]
    with engine.stream([5, 9, 7], temperature=0, max_tokens=30, stop_ids=(), stop=stop) as cut:
        assert str(cut) == text[: text.index(stop)]
    with engine.stream([5, 9, 7], temperature=0, max_tokens=30, stop_ids=(), stop=stop, min_tokens=30) as whole:
        assert str(whole) == text


def test_a_grammar_that_is_complete_ends_it_all_the_same(engine: Engine) -> None:
    answer = engine.stream([5, 9, 7], max_tokens=30, min_tokens=20, grammar={"choice": ["calm"]})
    assert str(answer) == "calm"


def test_less_than_none_is_refused() -> None:
    with pytest.raises(UserError, match="min-tokens is -1"):
        SamplingParams(min_tokens=-1)
