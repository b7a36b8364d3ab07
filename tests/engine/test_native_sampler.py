"""The compiled sampler draws numpy's tokens: any logits, parameters, masks, ties and histories."""

import ctypes
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.sampler import Sampler, SamplingParams, score
from cadran.engine.sampling import reference, truncation
from cadran.errors import UserError

library = pytest.importorskip("cadran.engine.native.library", reason="the package has no compiled core")
if not library.available():
    pytest.skip(f"no compiled core: {library.why_not()}", allow_module_level=True)

from cadran.engine.native import sampling  # noqa: E402  it needs the core


def cases(random: np.random.Generator, width: int) -> tuple[np.ndarray, SamplingParams, np.ndarray | None, list[int]]:
    """Logits, parameters, mask and history; each feature is on in about half of the cases."""

    def some(value: object, off: object) -> object:
        return value if random.random() < 0.5 else off

    logits = random.normal(size=width).astype(np.float32) * np.float32(random.choice([0.01, 1, 4, 12]))
    shape = random.integers(4)
    if shape == 0:
        logits = np.round(logits)  # ties
    elif shape == 1:
        logits[random.random(width) < 0.3] = -np.inf
    if random.random() < 0.1:
        logits[:] = logits[0] if np.isfinite(logits[0]) else 0
    elif not np.isfinite(logits).any():
        logits[width // 2] = 1
    mask = None
    if random.random() < 0.4:
        keep = random.random(width) < random.choice([0.01, 0.5, 0.99])
        keep[int(np.argmax(logits))] = True
        mask = np.packbits(np.pad(keep, (0, -width % 32)), bitorder="little").view("<u4")
    ids = min(width, 12)
    params = SamplingParams(
        temperature=float(random.choice([0, 1e-3, 0.3, 0.8, 1, 2.5, 10])),
        top_p=float(some(random.uniform(0.01, 1), 1)),
        top_k=int(some(random.choice([1, 2, 5, 40, 200, 1000, 2**40]), 0)),
        seed=int(random.integers(2**63)),
        min_p=float(some(random.uniform(0, 0.5), 0)),
        typical_p=float(some(random.uniform(0.05, 1), 1)),
        top_n_sigma=float(some(random.uniform(0, 3), 0)),
        repetition_penalty=float(some(random.uniform(0.5, 2), 1)),
        presence_penalty=float(some(random.uniform(-2, 2), 0)),
        frequency_penalty=float(some(random.uniform(-2, 2), 0)),
        penalty_window=int(some(random.integers(1, 30), 0)),
        dry_multiplier=float(some(random.uniform(0, 5), 0)),
        dry_base=float(random.uniform(1, 3)),
        dry_allowed_length=int(random.integers(1, 4)),
        dry_breakers=tuple(int(i) for i in random.integers(0, ids, size=random.integers(3))),
        xtc_probability=float(some(random.random(), 0)),
        xtc_threshold=float(random.choice([1e-9, 0.01, 0.1, 0.4, 1])),
        mirostat=int(random.choice([0, 0, 0, 2])),
        mirostat_tau=float(random.uniform(0.1, 10)),
        mirostat_eta=float(random.uniform(0.01, 1)),
        logit_bias=tuple((int(i), float(random.choice([-5, 3, 50]))) for i in random.integers(0, ids, size=2)),
    )
    if random.random() < 0.3:  # one filter alone takes a path of its own
        only = random.choice(["top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "mirostat"])
        alone = SamplingParams(temperature=1, top_p=1, seed=params.seed)
        params = dataclasses.replace(alone, **{only: getattr(params, only)})
    return logits, params, mask, [int(i) for i in random.integers(0, ids, size=random.integers(40))]


def compare(seed: int, width: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    logits, params, mask, history = cases(random, width)
    ours, theirs = (Sampler(params, history, seed % 3, native=native) for native in (True, False))
    for step in range(steps):
        position = len(history) + step
        token = ours.choose(logits, position, mask).token
        assert token == theirs.choose(logits, position, mask).token, (params, step)
        if random.random() < 0.2:
            token = int(random.integers(width))  # forced by somebody else
        ours.accept(token)
        theirs.accept(token)
        logits = random.permutation(logits) if mask is None else logits


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 700))
def test_core_and_numpy_draw_the_same_tokens(seed: int, width: int) -> None:
    compare(seed, width, steps=8)


def test_core_and_numpy_draw_the_same_tokens_of_a_whole_vocabulary() -> None:
    for seed in range(80):
        compare(seed, 50_003, steps=2)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_instruction_set_makes_numpys_weights_to_the_last_bit(level: int) -> None:
    random = np.random.default_rng(level)
    for width in (*range(1, 70), 511, 512, 513, 5003):
        row = (random.normal(size=width) * random.choice([0.1, 3, 30])).astype(np.float32)
        row[random.random(width) < 0.1] = -np.inf
        row[0] = 1
        weights, spread = np.zeros(-(-width // 64) * 64), np.zeros(4)
        temperature = float(random.uniform(0.1, 2))
        scale = truncation.LOG2_E / temperature
        if sampling.core().cadran_test_weigh(
            level, row.ctypes.data, width, scale, weights.ctypes.data, spread.ctypes.data
        ):
            pytest.skip("this machine has no such instructions")
        values = row.astype(np.float64)
        expected = truncation.weigh(truncation.exponents(values, temperature))
        assert np.array_equal(weights[:width], expected) and not weights[width:].any()
        mean = spread[2] / spread[1]
        assert spread[0] == row.max()
        assert math.sqrt(max(spread[3] / spread[1] - mean * mean, 0)) == truncation.spread(values)


def test_uniform_numbers_are_numpys_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    keys = [(0, 0), (2**64 - 1, 2**63 - 1), (1, 2**40)]
    keys += [(int(a), int(b)) for a, b in random.integers(2**64, size=(3000, 2), dtype=np.uint64)]
    for seed, position in keys:
        assert sampling.uniforms(seed, position) == reference.uniforms(seed, position)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(0, 64))
def test_log_probabilities_are_numpys(seed: int, width: int, top: int) -> None:
    random = np.random.default_rng(seed)
    logits, params, mask, history = cases(random, width)
    ours, theirs = (
        Sampler(params, history, native=native).choose(logits, 3, mask, top, logprobs=True) for native in (True, False)
    )
    assert (ours.token, [i for i, _ in ours.top]) == (theirs.token, [i for i, _ in theirs.top])
    assert ours.logprob == theirs.logprob and ours.top == theirs.top
    assert score(logits, ours.token, top, native=True) == score(logits, ours.token, top, native=False) == ours


def test_structures_have_the_core_s_size() -> None:
    core = sampling.core()
    assert core.cadran_sampling_size() == ctypes.sizeof(sampling.Sampling)
    assert core.cadran_choice_size() == ctypes.sizeof(sampling.Choice)


@pytest.mark.parametrize("native", [True, False])
def test_what_cannot_be_sampled_is_refused(native: bool) -> None:
    sampler = Sampler(SamplingParams(logit_bias=((2, 1.0),)), (), native=native)
    fine = np.zeros(70, np.float32)
    for bad in (math.nan, math.inf):
        for index in (0, 40, 69):
            logits = fine.copy()
            logits[index] = bad
            with pytest.raises(UserError, match="not all numbers"):
                sampler.choose(logits, 0, mask=np.array([1, 0, 0], np.uint32))
    with pytest.raises(UserError, match="no token may come next"):
        sampler.choose(fine, 0, mask=np.zeros(3, np.uint32))
    with pytest.raises(UserError, match="no token may come next"):
        sampler.choose(np.full(70, -np.inf, np.float32), 0)
    with pytest.raises(UserError, match="names token 2 and the vocabulary ends at 1"):
        sampler.choose(fine[:2], 0)
    with pytest.raises(UserError, match="logits to choose from"):
        sampler.choose(fine[:0], 0)
    assert sampler.choose(fine, 0, mask=np.array([0, 16], np.uint32)).token == 36  # it can still be used


def test_many_samplers_give_their_memory_back() -> None:
    import resource

    def megabytes() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    prompt = range(20_000)
    for _ in range(20):
        Sampler(SamplingParams(repetition_penalty=1.1), prompt, native=True)
    before = megabytes()
    for _ in range(200):
        Sampler(SamplingParams(repetition_penalty=1.1), prompt, native=True)
    assert megabytes() - before < 40  # one of them holds more than one megabyte
