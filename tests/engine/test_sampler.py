"""What each step of the sampler means: against transformers' processors, and against its own sources' definitions."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from cadran.engine.sampler import Sampler, SamplingParams, probabilities, score
from cadran.engine.sampling.adjustments import adjusted, repetitions
from cadran.engine.sampling.reference import softened, uniforms
from cadran.engine.sampling.truncation import (
    UNIT,
    exclude_top_choices,
    power_of_two,
    spread,
    truncate,
    weigh,
    within_surprise,
)
from cadran.errors import UserError

PLAIN = SamplingParams(temperature=1, top_p=1)
NONE = torch.zeros((1, 0), dtype=torch.long)

logit_rows = st.lists(st.floats(-12, 12, width=32), min_size=2, max_size=60, unique=True).map(
    lambda row: np.array(row, dtype=np.float32)
)


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


def kept_by(warper: theirs.LogitsProcessor, row: np.ndarray) -> set[int]:
    """Ids that transformers leaves; in doubles, or it loses the tail of a running sum."""
    return set(np.flatnonzero(np.isfinite(warper(NONE, torch.tensor(row[None].astype(np.float64)))[0].numpy())))


def kept(row: np.ndarray, **params: float) -> set[int]:
    return set(np.flatnonzero(probabilities(row, dataclasses.replace(PLAIN, **params))))


def likely(row: np.ndarray) -> set[int]:
    """Ids that have a weight at all."""
    return kept(row)


def apart(row: np.ndarray) -> bool:
    """Whether no two ids weigh alike: logits may differ by less than weights do, and then their order is anybody's."""
    weights = probabilities(row, PLAIN)
    return len(np.unique(weights[weights > 0])) == np.count_nonzero(weights)


@settings(max_examples=100)
@given(logit_rows, st.integers(1, 70))
def test_top_k_keeps_what_transformers_keeps(row: np.ndarray, k: int) -> None:
    if apart(row):
        assert kept(row, top_k=k) == kept_by(theirs.TopKLogitsWarper(k), row) & likely(row)


@settings(max_examples=100)
@given(logit_rows, st.floats(0.01, 0.99))
def test_top_p_keeps_what_transformers_keeps(row: np.ndarray, share: float) -> None:
    running = np.cumsum(np.sort(softmax(row))[::-1])
    if apart(row) and np.abs(running - share).min() > 1e-9:  # at an equality rounding decides
        assert kept(row, top_p=share) == kept_by(theirs.TopPLogitsWarper(share), row) & likely(row)


@given(logit_rows, st.floats(0.001, 1))
def test_min_p_keeps_what_transformers_keeps(row: np.ndarray, share: float) -> None:
    relative = softmax(row) / softmax(row).max()
    if np.abs(np.delete(relative, relative.argmax()) - share).min() > 1e-9:
        assert kept(row, min_p=share) == kept_by(theirs.MinPLogitsWarper(share), row)


@given(logit_rows, st.floats(0.01, 0.99))
def test_typical_keeps_what_transformers_keeps(row: np.ndarray, share: float) -> None:
    shares = softmax(row)
    shift = np.abs(-np.log(shares) - -(shares * np.log(shares)).sum())
    running = np.cumsum(shares[np.argsort(shift)])
    if np.abs(running - share).min() > 1e-9 and np.diff(np.sort(shift)).min() > 1e-9:
        assert kept(row, typical_p=share) == kept_by(theirs.TypicalLogitsWarper(share), row) & likely(row)


@given(logit_rows, st.lists(st.integers(0, 59), max_size=30), st.floats(0.1, 5))
def test_repetition_penalty_is_transformers(row: np.ndarray, prompt: list[int], penalty: float) -> None:
    prompt = [token % len(row) for token in prompt]
    ids = torch.tensor([prompt], dtype=torch.long)
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, torch.tensor(row[None].astype(np.float64)))[0]
    assert np.allclose(adjusted(row, dataclasses.replace(PLAIN, repetition_penalty=penalty), prompt), expected.numpy())


@given(logit_rows, st.floats(0.05, 10))
def test_without_filters_the_distribution_is_the_softmax(row: np.ndarray, temperature: float) -> None:
    found = probabilities(row, dataclasses.replace(PLAIN, temperature=temperature))
    assert np.allclose(found, softmax(row / np.float64(temperature)), rtol=1e-9, atol=1e-12)


@given(st.floats(-64, 0))
def test_power_of_two_is_the_libm_s(exponent: float) -> None:
    assert power_of_two(np.array([exponent]))[0] == pytest.approx(2.0**exponent, rel=1e-13)


def test_the_likeliest_token_weighs_one_unit_and_impossible_ones_nothing() -> None:
    assert list(weigh(np.array([0.0, -1.0, -50.0, -np.inf]))) == [UNIT, UNIT / 2, 0, 0]


@given(logit_rows, st.floats(0.1, 3))
def test_top_n_sigma_keeps_logits_within_so_many_deviations_at_any_temperature(row: np.ndarray, n: float) -> None:
    bound = row.astype(np.float64).max() - n * np.std(row.astype(np.float64))
    if np.abs(row - bound).min() > 1e-6:
        assert kept(row, top_n_sigma=n, temperature=10.0) == set(np.flatnonzero(row >= bound))


def test_spread_leaves_impossible_tokens_out() -> None:
    row = np.array([1.0, -np.inf, 4.0, 2.5, -np.inf])
    assert spread(row) == pytest.approx(np.std([1.0, 4.0, 2.5]))


def test_presence_and_frequency_penalties_count_the_answer_and_not_the_prompt() -> None:
    row = np.zeros(5, np.float32)
    params = dataclasses.replace(PLAIN, presence_penalty=0.5, frequency_penalty=0.25)
    assert list(adjusted(row, params, prompt=(0, 1, 1), answer=(1, 3, 3))) == [0, -0.75, 0, -1.0, 0]


def test_penalties_look_back_no_further_than_their_window() -> None:
    row = np.ones(5, np.float32)
    params = dataclasses.replace(PLAIN, repetition_penalty=2.0, frequency_penalty=1.0, penalty_window=3)
    assert list(adjusted(row, params, prompt=(0, 4, 1), answer=(2, 2))) == [1, 0.5, -1.5, 1, 1]
    assert list(adjusted(row, params, prompt=(0, 4, 1), answer=(2, 3, 3, 3))) == [1, 1, 1, 0.5 - 3, 1]


def test_dry_penalises_going_on_with_the_longest_repetition() -> None:
    params = dataclasses.replace(PLAIN, dry_multiplier=0.5, dry_base=2.0, dry_allowed_length=2)
    # 1 2 3 came before and was followed by 4; 2 3 was followed by 5; 3 alone by 6, which is short enough.
    prompt = (1, 2, 3, 4, 2, 3, 5, 3, 6, 1, 2, 3)
    assert repetitions(prompt, frozenset()) == {4: 3, 5: 2, 6: 1}
    assert list(adjusted(np.zeros(8, np.float32), params, prompt)) == [0, 0, 0, 0, -1.0, -0.5, 0, 0]


def test_dry_does_not_look_over_a_breaker_nor_forbid_one() -> None:
    assert repetitions((1, 9, 3, 4, 1, 9, 3), frozenset()) == {4: 3}
    assert repetitions((1, 9, 3, 4, 1, 9, 3), frozenset({9})) == {4: 1}
    assert repetitions((1, 2, 9, 1, 2), frozenset({9})) == {}
    assert repetitions((9, 2, 9), frozenset({9})) == {}


@given(st.lists(st.integers(0, 2), max_size=40), st.sets(st.integers(0, 2), max_size=1))
def test_dry_finds_the_longest_common_endings(text: list[int], breakers: set[int]) -> None:
    found: dict[int, int] = {}
    for index in range(1, len(text)):
        before, length = text[:index], 0
        while length < min(index, 50) and before[-1 - length] == text[-1 - length] not in breakers:
            length += 1
        if length and text[index] not in breakers:
            found[text[index]] = max(found.get(text[index], 0), length)
    assert repetitions(text, frozenset(breakers)) == found


def test_xtc_drops_all_top_choices_but_the_least_likely() -> None:
    weights = np.array([50, 5, 30, 15], np.int64)
    assert list(exclude_top_choices(weights, 0.1)) == [0, 5, 0, 15]
    assert list(exclude_top_choices(weights, 0.3)) == [0, 5, 30, 15]
    assert list(exclude_top_choices(weights, 0.5)) == [50, 5, 30, 15]
    assert list(exclude_top_choices(weights, 1.0)) == [50, 5, 30, 15]


def test_xtc_happens_as_often_as_asked_and_by_a_number_of_its_own() -> None:
    row = np.log(np.array([0.6, 0.4], np.float32))
    params = dataclasses.replace(PLAIN, xtc_probability=0.5)
    first = sum(Sampler(params, (), native=False).choose(row, i).token == 0 for i in range(2000))
    assert abs(first / 2000 - 0.3) < 0.04  # half of the time only the second token is left
    pairs = np.array([uniforms(7, position) for position in range(4000)])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.05


def test_mirostat_keeps_the_surprise_near_its_target() -> None:
    random = np.random.default_rng(5)
    params = dataclasses.replace(PLAIN, mirostat=2, mirostat_tau=3.0, mirostat_eta=0.1, top_k=1)
    sampler, surprises = Sampler(params, (), native=False), []
    for position in range(800):
        row = (random.normal(size=500) * 2.5).astype(np.float32)
        token = sampler.choose(row, position).token
        sampler.accept(token)
        surprises.append(-math.log2(softmax(row)[token]))
    assert abs(np.mean(surprises[100:]) - 3.0) < 0.2
    assert len({round(surprise, 6) for surprise in surprises}) > 700  # top-k 1 has no say


def test_mirostat_leaves_the_likeliest_token_whatever_the_bound() -> None:
    weights = np.array([10, 70, 20], np.int64)
    assert list(within_surprise(weights, -3.0)) == [0, 70, 0]
    assert list(within_surprise(weights, 0.0)) == [0, 70, 0]
    assert list(within_surprise(weights, 2.4)) == [0, 70, 20]
    assert list(within_surprise(weights, 99.0)) == [10, 70, 20]


def test_mirostat_learns_nothing_from_a_forced_token() -> None:
    params = dataclasses.replace(PLAIN, mirostat=2, mirostat_tau=1.0, mirostat_eta=1.0)
    row = np.log(np.array([0.3, 0.25, 0.25, 0.2], np.float32))
    samplers = [Sampler(params, (), native=False) for _ in range(2)]
    token = samplers[0].choose(row, 0).token
    samplers[0].accept((token + 1) % 4)
    drawn = [[sampler.choose(row, position).token for position in range(1, 60)] for sampler in samplers]
    assert drawn[0] == drawn[1]


@settings(max_examples=200)
@given(
    logit_rows,
    st.integers(0, 10),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.floats(0, 2),
    st.floats(1e-6, 1),
)
def test_every_combination_leaves_a_token(
    row: np.ndarray, k: int, top_p: float, typical_p: float, min_p: float, n: float, threshold: float
) -> None:
    params = dataclasses.replace(
        PLAIN, top_k=k, top_p=top_p, typical_p=typical_p, min_p=min_p, top_n_sigma=n, temperature=0.7
    )
    weights = truncate(*softened(row.astype(np.float64), params), params)
    assert weights.sum() > 0
    assert exclude_top_choices(weights, threshold).sum() > 0


CHI_SQUARE = {3: 16.27, 4: 18.47, 5: 20.52}
"""Degrees of freedom -> what one sample in a thousand exceeds; the draws are seeded and do not vary."""


@pytest.mark.parametrize("native", [True, False])
def test_draws_follow_the_distribution(native: bool) -> None:
    require(native)
    row = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], np.float32))
    for params in (PLAIN, dataclasses.replace(PLAIN, top_k=4, seed=9), dataclasses.replace(PLAIN, top_p=0.9, seed=2)):
        expected = probabilities(row, params)
        sampler = Sampler(params, (), native=native)
        counts = Counter(sampler.choose(row, position).token for position in range(2500))
        left = np.flatnonzero(expected)
        assert set(counts) == set(left)
        wanted = expected[left] * 2500
        surprise = sum((counts[i] - w) ** 2 / w for i, w in zip(left, wanted, strict=True))
        assert surprise < CHI_SQUARE[len(left) - 1]


@pytest.mark.parametrize("native", [True, False])
def test_a_draw_depends_on_seed_answer_and_position_alone(native: bool) -> None:
    require(native)
    row = np.random.default_rng(1).normal(size=300).astype(np.float32)

    def tokens(seed: int, answer: int, positions: range) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), (1, 2), answer, native=native)
        return [sampler.choose(row, position).token for position in positions]

    whole = tokens(5, 2, range(40))
    assert tokens(5, 2, range(20, 40)) == whole[20:]
    assert tokens(7, 0, range(40)) == whole  # answer i is drawn with seed + i
    assert tokens(6, 2, range(40)) != whole
    assert tokens(2**64 - 1, 1, range(5)) == tokens(0, 0, range(5))


@pytest.mark.parametrize("native", [True, False])
def test_greedy_takes_the_smaller_id_of_two_and_heeds_bias_mask_and_penalties(native: bool) -> None:
    require(native)
    row = np.zeros(40, np.float32)
    row[[7, 33]] = 2.0
    greedy = SamplingParams(temperature=0)

    def token(params: SamplingParams = greedy, prompt: tuple[int, ...] = (), mask: np.ndarray | None = None) -> int:
        return Sampler(params, prompt, native=native).choose(row, 0, mask).token

    assert token() == 7
    assert token(mask=np.array([1 << 9, 2], np.uint32)) == 33
    assert token(mask=np.array([1 << 9], np.uint32)) == 9  # tokens beyond the mask are forbidden
    assert token(dataclasses.replace(greedy, logit_bias=((12, 2.5),))) == 12
    assert token(dataclasses.replace(greedy, logit_bias=((7, -math.inf),))) == 33
    assert token(dataclasses.replace(greedy, repetition_penalty=1.5), (7,)) == 33
    assert token(dataclasses.replace(greedy, dry_multiplier=1, dry_allowed_length=1), (5, 7, 5)) == 33


@pytest.mark.parametrize("native", [True, False])
def test_log_probabilities_are_of_the_raw_logits(native: bool) -> None:
    require(native)
    row = np.array([1.0, 3.0, -np.inf, 3.0, 0.5], np.float32)
    params = SamplingParams(temperature=0.2, top_k=1, logit_bias=((4, 50.0),))
    found = Sampler(params, (), native=native).choose(row, 0, top=64)
    expected = torch.log_softmax(torch.tensor(row, dtype=torch.float64), 0)
    assert found.token == 4 and found.logprob == pytest.approx(expected[4].item(), abs=1e-9)
    assert [i for i, _ in found.top] == [1, 3, 0, 4]
    assert [p for _, p in found.top] == pytest.approx([expected[i].item() for i in (1, 3, 0, 4)], abs=1e-9)
    alone = Sampler(params, (), native=native).choose(row, 0, logprobs=True)
    assert alone.logprob == found.logprob and alone.top == ()
    assert Sampler(params, (), native=native).choose(row, 0).logprob is None
    assert score(row, 0, 2, native=native).logprob == pytest.approx(expected[0].item(), abs=1e-9)
    assert score(row, 2, native=native).logprob == -math.inf


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *[("temperature", value) for value in (-0.1, 11, math.nan)],
        *[("top_p", value) for value in (0, 1.1, math.nan)],
        *[("top_k", -1), ("seed", -1), ("seed", 2**64), ("max_tokens", 0)],
        *[("min_p", value) for value in (-0.1, 1.1, math.nan)],
        *[("typical_p", value) for value in (0, 1.1)],
        *[("top_n_sigma", value) for value in (-1, math.inf)],
        *[("repetition_penalty", value) for value in (0, 11, math.nan)],
        *[("presence_penalty", -11), ("frequency_penalty", 11), ("penalty_window", -1), ("penalty_window", 2**31)],
        *[("dry_multiplier", -1), ("dry_base", 0.5), ("dry_allowed_length", 0), ("dry_breakers", (3, -1))],
        *[("xtc_probability", 1.5), ("xtc_threshold", 0), ("mirostat", 1), ("mirostat_tau", 0), ("mirostat_eta", 2)],
        *[("logit_bias", ((-1, 0.0),)), ("logit_bias", ((1, math.inf),)), ("logit_bias", ((1, math.nan),))],
    ],
)
def test_a_bad_parameter_is_refused_with_what_to_give(name: str, bad: object) -> None:
    with pytest.raises(UserError, match="; give "):
        SamplingParams(**{name: bad})


def test_sampling_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, cadran.engine.sampler, cadran.engine.sampling.reference; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def require(native: bool) -> None:
    from cadran.engine.native import library

    if native and not library.available():
        pytest.skip(f"no compiled core: {library.why_not()}")
