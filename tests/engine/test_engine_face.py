"""What a program asks of an engine: texts, events, scores and vectors, alone and from many threads at once."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cadran
from cadran.engine.engine import Engine
from cadran.engine.event import Event
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError
from cadran.model.checkpoint import save_model
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = ["L'été, la rivière est calme.", "In summer the river is calm; nobody fishes.", "😀 ça va ?"] * 4
GREEDY = SamplingParams(temperature=0, max_tokens=20)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small only loses by a second one, and much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 320)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=2, width=32, heads=2, kv_heads=1, head_width=16, hidden=64,
        context=128, tied=True,
    )  # fmt: skip
    model = Transformer(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def shared(model: Transformer, tokenizer: Tokenizer) -> Iterator[Engine]:
    with Engine(model, tokenizer, ChatRenderer(tokenizer)) as engine:
        yield engine


@pytest.fixture
def engine(model: Transformer, tokenizer: Tokenizer) -> Iterator[Engine]:
    with Engine(model, tokenizer, ChatRenderer(tokenizer)) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder, end_of_text=tokenizer.end_of_text, pad=tokenizer.pad, eos=[2, 0])
    tokenizer.save(folder, chat=True)
    return folder


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


@settings(max_examples=15)
@given(
    prompt=st.sampled_from(["L'été", "In summer", "😀 ça", "r", "The river is calm; nobody"]),
    seed=st.integers(0, 5),
    tokens=st.integers(1, 40),
)
def test_streamed_is_whole(shared: Engine, prompt: str, seed: int, tokens: int) -> None:
    params = SamplingParams(temperature=1.0, seed=seed, max_tokens=tokens)
    events = list(shared.generate(prompt, params))
    whole = shared.generate(prompt, params)
    ids = [event.token for event in events if event.token is not None]
    assert "".join(event.text for event in events) == whole.text == shared.tokenizer.decode(ids, skip_special=True)
    assert whole.finish == events[-1].finish and whole.usage is not None
    assert whole.usage.generated_tokens == len(ids) <= tokens


def test_async_is_plain_and_thirty_at_once_are_each_alone(shared: Engine) -> None:
    asked = [(f"In summer {number} the river", number) for number in range(30)]
    alone = [shared.generate(prompt, temperature=1.0, seed=seed, max_tokens=25).text for prompt, seed in asked]

    async def one(prompt: str, seed: int) -> str:
        answer = shared.generate(prompt, temperature=1.0, seed=seed, max_tokens=25)
        return "".join([event.text async for event in answer])

    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(one(prompt, seed) for prompt, seed in asked))

    assert asyncio.run(all_at_once()) == alone


def test_two_threads_of_requests_get_the_texts_they_get_alone(shared: Engine) -> None:
    def ask(first: int) -> list[str]:
        return [
            shared.generate("L'été" * (number % 3 + 1), temperature=1.0, seed=number, max_tokens=15).text
            for number in range(first, first + 12)
        ]

    alone = {first: ask(first) for first in (0, 100)}
    together: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda first=first: together.__setitem__(first, ask(first))) for first in (0, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert together == alone


def test_fields_of_the_params_may_be_given_as_words(shared: Engine) -> None:
    whole = shared.generate("La rivière", SamplingParams(temperature=0, max_tokens=9))
    assert shared.generate("La rivière", temperature=0, max_tokens=9).text == whole.text
    assert shared.generate("La rivière", SamplingParams(max_tokens=9), temperature=0).text == whole.text
    messages = [{"role": "user", "content": "ça va ?"}]
    assert shared.chat(messages, temperature=0, max_tokens=7).text == shared.chat(
        messages, SamplingParams(temperature=0, max_tokens=7)
    ).text  # fmt: skip
    assert str(whole) == whole.text
    with pytest.raises(TypeError, match="temprature"):
        shared.generate("La rivière", temprature=0)


def test_a_stop_string_ends_the_text_before_it_wherever_the_tokens_end(shared: Engine) -> None:
    free = shared.generate("In summer", temperature=1.0, seed=3, max_tokens=40, stop_ids=[]).text
    assert len(free) > 12
    for start in range(1, len(free) - 3, 3):
        stop = free[start : start + 3]
        if "\ufffd" in stop:
            continue
        answer = shared.generate("In summer", temperature=1.0, seed=3, max_tokens=40, stop_ids=[], stop=stop)
        events = list(answer)
        assert answer.text == free[: free.index(stop)] and events[-1].stop == stop and answer.finish == "stop"
    with pytest.raises(UserError, match="empty"):
        shared.generate("In summer", stop=["x", ""])


def test_several_answers_are_those_of_consecutive_seeds(shared: Engine) -> None:
    params = SamplingParams(temperature=1.0, seed=40, max_tokens=20)
    several = shared.generate("L'été", params, answers=4)
    events = list(several)
    assert several.texts == [
        shared.generate("L'été", temperature=1.0, seed=40 + number, max_tokens=20).text for number in range(4)
    ]
    assert len(set(several.texts)) > 1 and {event.index for event in events} == {0, 1, 2, 3}
    assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]
    assert several.usage is not None
    assert several.usage.generated_tokens == sum(event.token is not None for event in events)


def logprobs_of(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)


def test_scores_are_the_log_softmax_of_the_models_own_logits(
    shared: Engine, model: Transformer, tokenizer: Tokenizer
) -> None:
    text = "La rivière est calme; nobody fishes."
    ids = tokenizer.encode(text)
    scores = shared.score(text, top=3)
    assert [scored.token for scored in scores] == ids
    expected = logprobs_of(model, [tokenizer.end_of_text, *ids])
    for place, scored in enumerate(scores):
        assert scored.logprob == pytest.approx(float(expected[place, scored.token]), abs=2e-4)
        likeliest = expected[place].topk(3)
        assert [value for _, value in scored.top] == pytest.approx(likeliest.values.tolist(), abs=2e-4)
    of_ids = shared.score(ids)
    assert of_ids[0].logprob is None and len(of_ids) == len(ids)
    assert of_ids[-1].logprob == pytest.approx(float(logprobs_of(model, ids)[-2, ids[-1]]), abs=2e-4)


def test_log_probabilities_of_an_answer_are_before_the_temperature(
    shared: Engine, model: Transformer, tokenizer: Tokenizer
) -> None:
    answer = shared.generate("L'été", temperature=0.5, max_tokens=8, logprobs=True, top=2, stop_ids=[])
    tokens = [scored.token for scored in answer.scored[0]]
    ids = [*shared.prompt_ids("L'été"), *tokens]
    expected = logprobs_of(model, ids)
    assert len(tokens) == 8
    for place, scored in enumerate(answer.scored[0], start=len(ids) - 9):
        assert scored.logprob == pytest.approx(float(expected[place, scored.token]), abs=2e-4)
        assert len(scored.top) == 2
    assert shared.generate("L'été", GREEDY).scored == [[]]


def test_vectors_of_many_texts_are_those_of_each_alone_while_others_generate(
    shared: Engine, model: Transformer, tokenizer: Tokenizer
) -> None:
    texts = ["La rivière", "In summer the river is calm; nobody fishes. " * 3, "😀", "ça va ? " * 9, "calm"] * 4
    under_way = [shared.generate("In summer", temperature=1.0, seed=seed, max_tokens=60) for seed in range(4)]
    vectors = shared.embed(texts)
    assert vectors.shape == (20, 32) and vectors.dtype == np.float32
    for text, vector in zip(texts[:5], vectors[:5], strict=True):
        assert np.allclose(shared.embed([text])[0], vector, atol=1e-5)
        ids = shared.prompt_ids(text)
        with torch.no_grad():
            states = model.hidden_states(torch.tensor([ids]), causal(len(ids)))[0]
        mean = states[len(shared.opening_ids) :].mean(0)
        assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-4)
    for seed, answer in enumerate(under_way):
        assert answer.text == shared.generate("In summer", temperature=1.0, seed=seed, max_tokens=60).text
    assert shared.embed([]).shape == (0, 32)
    for wrong, message in ((["calm", ""], "text 2 is empty"), (["calm " * 200], "reads 128")):
        with pytest.raises(UserError, match=message):
            shared.embed(wrong)


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


def test_embedding_gives_every_block_back(engine: Engine) -> None:
    engine.embed(["calm"] * 3)
    free = on_the_thread(engine, lambda scheduler: scheduler.free_blocks)
    engine.embed(["La rivière est calme. " * 5] * 40)
    assert on_the_thread(engine, lambda scheduler: scheduler.free_blocks) == free == engine.runner.blocks


def on_the_thread(engine: Engine, look: Callable[[object], object]) -> object:
    def job(scheduler: object) -> Iterator[None]:
        yield
        return look(scheduler)

    return engine._compute.run(job).result(timeout=60)


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_a_request_nobody_wants_any_more_frees_its_blocks(engine: Engine, leave: str) -> None:
    answer = engine.generate("In summer", temperature=1.0, max_tokens=100, stop_ids=[])
    next(answer)
    if leave == "close":
        answer.close()
    else:
        del answer
    wait_for(lambda: bool(on_the_thread(engine, lambda scheduler: scheduler.idle)))
    assert on_the_thread(engine, lambda scheduler: scheduler.free_blocks) == engine.runner.blocks


def test_a_second_request_with_the_same_beginning_reads_only_the_rest(engine: Engine) -> None:
    prompt = "In summer the river is calm; nobody fishes. " * 2
    first, second = engine.generate(prompt, GREEDY), engine.generate(prompt + "L'été", GREEDY)
    assert first.usage is not None and first.usage.cached_tokens == 0
    again = engine.generate(prompt, GREEDY)
    assert again.text == first.text and again.usage is not None
    assert again.usage.cached_tokens > 0 and again.usage.prompt_tokens == first.usage.prompt_tokens
    assert second.finish is not None


def test_a_failure_of_the_runner_is_raised_and_the_next_request_is_served(engine: Engine) -> None:
    expected = engine.generate("L'été", GREEDY).text
    step = engine.runner.step

    def broken(batch: object) -> object:
        raise ArithmeticError("overheated")

    engine.runner.step = engine.runner.burst = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="overheated"):
        engine.generate("In summer", GREEDY).read()
    del engine.runner.step, engine.runner.burst
    assert engine.runner.step == step and engine.generate("L'été", GREEDY).text == expected


def test_logits_that_are_no_numbers_end_the_answer_with_an_error(model: Transformer, tokenizer: Tokenizer) -> None:
    with Engine(model, tokenizer, None) as engine:
        step = engine.runner.step
        engine.runner.step = lambda batch: step(batch) * np.float32(np.nan)  # type: ignore[method-assign]
        engine.runner.burst = None  # type: ignore[method-assign, assignment]
        events: list[Event] = []
        with pytest.raises(UserError):
            for event in engine.generate("In summer", GREEDY, logprobs=True):
                events.append(event)
        assert events[-1].finish == "error" and events[-1].message


def test_a_closed_engine_says_so(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, None)
    engine.generate("calm", GREEDY).read()
    engine.close()
    for ask in (lambda: engine.generate("calm"), lambda: engine.score("calm"), lambda: engine.embed(["calm"])):
        with pytest.raises(UserError, match="closed"):
            ask()
    Engine(model, tokenizer, None).close()  # one that was never asked anything


def test_a_forgotten_engine_leaves_no_thread_behind(model: Transformer, tokenizer: Tokenizer) -> None:
    before = set(threading.enumerate())
    text = Engine(model, tokenizer, None).generate("calm", GREEDY).text  # the engine itself is already gone
    assert text
    wait_for(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        ({"choice": ["calme", "rivière"]}, lambda text: text in ("calme", "rivière")),
        ({"regex": "[0-9]{3}"}, lambda text: len(text) == 3 and text.isdigit()),
        ({"json_schema": {"enum": ["été", 7]}}, lambda text: text in ('"été"', "7")),
    ],
)
def test_an_answer_matches_its_grammar(shared: Engine, grammar: dict[str, object], fits: Callable[[str], bool]) -> None:
    for seed in range(3):
        answer = shared.generate("L'été", temperature=1.0, seed=seed, max_tokens=30, grammar=grammar)
        assert fits(answer.text) and answer.finish == "stop", answer.text


def test_arguments_that_make_no_sense_are_refused_in_a_sentence(shared: Engine) -> None:
    for ask, message in (
        (lambda: shared.stream([]), "empty"),
        (lambda: shared.stream([1] * 128), "reads 128"),
        (lambda: shared.stream([1, 10**6]), "ids outside"),
        (lambda: shared.stream([-1]), "ids outside"),
        (lambda: shared.generate("x", answers=0), "one at least"),
        (lambda: shared.generate("x", top=65), "0 to 64"),
        (lambda: shared.generate("x", grammar={"poem": 1}), "json_schema"),
        (lambda: shared.generate("x", grammar={"regex": "a", "choice": ["b"]}), "json_schema"),
    ):
        with pytest.raises(UserError, match=message):
            ask()


def test_loading_by_name_or_path_gives_the_models_own_text(shared: Engine, folder: Path) -> None:
    expected = shared.chat([{"role": "user", "content": "ça va ?"}], GREEDY).text
    with cadran.load(folder, runner="torch") as engine:
        assert engine.chat([{"role": "user", "content": "ça va ?"}], GREEDY).text == expected
        assert engine.runner.name == "torch" and engine.runner_reason == "" and engine.context == 128
    with cadran.load(str(folder), runner="torch", context=40, threads=1) as engine:
        assert engine.context == 40
        with pytest.raises(UserError, match="reads 40"):
            engine.stream([7] * 40)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_drafter_never_changes_the_text(shared: Engine, folder: Path, tmp_path: Path, temperature: float) -> None:
    prompt, params = "In summer the river is calm; " * 3, SamplingParams(temperature=temperature, seed=2, max_tokens=40)
    expected = shared.generate(prompt, params, stop_ids=[]).text
    assert shared.generate(prompt, params, stop_ids=[], guess=expected).text == expected
    for draft in ("lookup", folder):
        with cadran.load(folder, runner="torch", draft=draft) as engine:
            assert engine.generate(prompt, params, stop_ids=[]).text == expected
            counted = on_the_thread(engine, lambda scheduler: scheduler.counters)
            # Drawn tokens of a model without taste are rarely those that a greedy draft guesses.
            assert draft == "lookup" or counted.drafted >= counted.accepted >= (temperature == 0)
    train_bpe(TEXTS, 300).save(tmp_path, chat=True)
    with pytest.raises(UserError, match="another vocabulary"):
        cadran.load(folder, runner="torch", draft=str(_copy_of(folder, tmp_path)))


def _copy_of(folder: Path, other: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((folder / name).read_bytes())
    return other


def test_a_wrong_setting_is_refused_before_anything_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings_, message in (
        ({"runner": "fast"}, "native, torch or auto"),
        ({"kv": "f8"}, "f16 or int8"),
        ({"threads": 0, "runner": "torch"}, "positive"),
        ({"context": 0, "runner": "torch"}, "positive"),
    ):
        with pytest.raises(UserError, match=message):
            cadran.load(folder, **settings_)  # type: ignore[arg-type]
    monkeypatch.setenv("CADRAN_RUNNER", "fast")
    with pytest.raises(UserError, match="CADRAN_RUNNER"):
        cadran.load(folder)


def test_the_environment_chooses_the_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADRAN_RUNNER", "torch")
    with cadran.load(folder) as engine:
        assert engine.runner.name == "torch" and engine.runner_reason == ""


def test_an_engine_is_imported_and_its_tokenizer_opened_without_torch(folder: Path) -> None:
    code = (
        "import sys, pathlib, cadran, cadran.recipe.run, cadran.engine.engine, cadran.engine.loading as loading\n"
        f"tokenizer, renderer = loading.open_tokenizer(pathlib.Path({str(folder)!r}))\n"
        "renderer.render([{'role': 'user', 'content': 'x'}], add_generation_prompt=True)\n"
        "from cadran.engine.grammar import GrammarCompiler\n"
        "GrammarCompiler(tokenizer).regex('a+').matcher().mask()\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_native_core_answers_without_torch(folder: Path) -> None:
    from cadran.engine.native.library import available, why_not

    if not available():
        pytest.skip(f"no native core: {why_not()}")
    code = (
        "import sys, cadran\n"
        f"engine = cadran.load({str(folder)!r}, runner='native')\n"
        "print(engine.generate('In summer', temperature=0, max_tokens=12))\n"
        "engine.embed(['calm']), engine.score('calm'), engine.close()\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip("\n")


def test_importing_the_package_loads_next_to_nothing() -> None:
    code = "import sys, cadran; sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'tokenizers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_program_that_ends_with_an_answer_under_way_ends_cleanly(folder: Path) -> None:
    code = (
        "import cadran\n"
        f"engine = cadran.load({str(folder)!r}, runner='torch')\n"
        "answers = [engine.generate('In summer', max_tokens=100, seed=s, stop_ids=[]) for s in range(8)]\n"
        "next(answers[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
