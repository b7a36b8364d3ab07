"""Guesses come from where they should, and are made only as long as they pay."""

import pytest
from hash_runner import HashRunner
from hypothesis import given
from hypothesis import strategies as st

from cadran.engine.depth import Depth, PassCost
from cadran.engine.request import Request
from cadran.engine.sampler import SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.engine.speculation import DraftModel, PromptLookup


def test_the_longest_match_wins_over_a_later_shorter_one() -> None:
    text = [1, 2, 3, 7, 7, 9, 2, 3, 8, 8, 1, 2, 3]
    assert PromptLookup().propose(text, 2) == [7, 7]


def test_of_equal_matches_the_latest_counts() -> None:
    assert PromptLookup().propose([1, 2, 5, 1, 2, 6, 1, 2], 1) == [6]


def test_a_text_that_repeats_itself_is_guessed_to_go_on_repeating() -> None:
    assert PromptLookup().propose([4, 5, 6, 4, 5, 6, 4, 5], 7) == [6, 4, 5, 6, 4, 5, 6]


def test_single_tokens_are_no_match() -> None:
    assert PromptLookup().propose([1, 2, 3, 1], 3) == []


def test_a_guess_is_followed_from_its_beginning_and_found_again_after_a_difference() -> None:
    guess = [5, 6, 7, 8, 5, 6, 9, 9]
    lookup = PromptLookup(guess, prompt=2)
    assert lookup.propose([1, 2], 3) == [5, 6, 7]
    assert lookup.propose([1, 2, 5], 2) == [6, 7]
    assert lookup.propose([1, 2, 5, 6, 7, 3], 2) == []
    assert lookup.propose([1, 2, 5, 6, 7, 3, 7, 8], 3) == [5, 6, 9]
    # The second 5 6 of the guess, because the first was passed.
    assert lookup.propose([1, 2, 5, 6, 7, 3, 7, 8, 5, 6], 3) == [9, 9]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 8), st.lists(st.integers(0, 3), max_size=9))
def test_reading_a_text_bit_by_bit_finds_what_reading_it_at_once_finds(
    text: list[int], most: int, guess: list[int]
) -> None:
    patient = PromptLookup(prompt=len(text))
    for end in range(1, len(text)):
        patient.propose(text[:end], most)
    proposed = patient.propose(text, most)
    assert proposed == PromptLookup(prompt=len(text)).propose(text, most)
    assert len(proposed) <= most
    assert len(PromptLookup(guess).propose(text, most)) <= most


def greedy(runner: HashRunner, prompt: list[int], tokens: int) -> list[int]:
    scheduler = Scheduler(runner)
    scheduler.add(Request(0, tuple(prompt), SamplingParams(temperature=0, max_tokens=tokens)))
    taken: list[int] = []
    while not scheduler.idle:
        taken += [scored.token for produced in scheduler.step() for scored in produced.tokens]
    return taken


def test_a_draft_model_guesses_its_own_greedy_continuation_also_after_its_guesses_were_wrong() -> None:
    model = DraftModel(HashRunner())
    sequence = model.start(Request(0, (1, 2, 3)))
    text = [1, 2, 3]
    assert sequence.propose(text, 5) == greedy(HashRunner(), text, 5)
    text += [greedy(HashRunner(), text, 1)[0], 9, 9]
    assert sequence.propose(text, 3) == greedy(HashRunner(), text, 3)
    text += [4]
    assert sequence.propose(text, 4) == greedy(HashRunner(), text, 4)
    sequence.close()
    assert model.pool.free == model.runner.blocks


def test_a_draft_model_reads_only_what_is_new() -> None:
    runner = HashRunner()
    sequence = DraftModel(runner).start(Request(0, (1,)))
    text = list(range(10)) * 3
    drafts = sequence.propose(text, 4)
    before = runner.tokens
    sequence.propose([*text, *drafts, 5], 4)
    # The last guess and the token after it, then three more.
    assert runner.tokens - before == 5


def test_a_draft_model_without_room_guesses_nothing_and_holds_nothing() -> None:
    model = DraftModel(HashRunner(blocks=3, context=9))
    first, second = model.start(Request(0, (1,))), model.start(Request(1, (1,)))
    assert len(first.propose([1, 2, 3, 4, 5], 4)) == 4
    assert second.propose([1, 2, 3, 4, 5], 4) == []
    assert model.pool.free == 0
    assert first.propose(list(range(9)), 4) == []
    first.close()
    assert model.pool.free == 3


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="11 tokens cannot guess for one of 12"):
        DraftModel(HashRunner(), 12)


def test_nothing_is_guessed_where_a_token_more_costs_as_much_as_a_pass() -> None:
    linear = PassCost({n: float(n) for n in range(1, 20)})
    depth = Depth()
    assert depth.choose(linear, 1, 1) == 0


def test_the_depth_grows_with_acceptance_and_falls_with_cost() -> None:
    def best(acceptance: float, slope: float) -> int:
        depth = Depth()
        depth.acceptance = acceptance
        return depth.choose(PassCost({n: 1 + slope * (n - 1) for n in range(1, 20)}), 1, 1)

    assert best(0.3, 0.1) < best(0.6, 0.1) < best(0.9, 0.1)
    assert best(0.8, 0.3) < best(0.8, 0.1) < best(0.8, 0.02)


def test_the_depth_has_the_most_expected_tokens_a_second() -> None:
    depth = Depth()
    depth.acceptance = 0.5
    # Expected tokens 1, 1.5, 1.75, 1.875 in 1, 1.1, 1.5 and 1.6 s: 1, 1.36, 1.17, 1.17 tokens/s.
    assert depth.choose(PassCost({1: 1.0, 2: 1.1, 3: 1.5, 4: 1.6, 17: 9.0}), 1, 1) == 1


def test_time_spent_guessing_counts() -> None:
    cost = PassCost({1: 1.0, 17: 1.1})
    assert Depth().choose(cost, 1, 1) > 0
    for _ in range(50):
        cost.record_drafting(1, 0.9)
    assert Depth().choose(cost, 1, 1) == 0


def test_guessing_is_given_up_tried_now_and_then_and_comes_back() -> None:
    cost = PassCost({n: 1 + 0.2 * (n - 1) for n in range(1, 20)})
    depth, length = Depth(), 1
    tries = []
    while length < 3000:
        drafted = depth.choose(cost, 1, length)
        if drafted:
            tries.append(length)
            depth.update(drafted, 0, length)
        length += 1
    assert len(tries) < 30 and 1000 <= tries[-1] - tries[-2] <= 1100
    for _ in range(3000):
        drafted = depth.choose(cost, 1, length)
        if drafted:
            depth.update(drafted, drafted, length)
        length += 1 + drafted
    assert depth.choose(cost, 1, length) >= 8


def test_one_disturbed_measurement_is_forgotten() -> None:
    cost = PassCost()
    assert cost.estimate(1) is None
    cost.record(1, 1.0)
    cost.record(1, 50.0)
    for _ in range(12):
        cost.record(1, 1.0)
    assert cost.estimate(1) == pytest.approx(1.0, abs=0.05)


@given(st.dictionaries(st.integers(1, 30), st.floats(0.01, 10), min_size=1), st.integers(1, 60))
def test_an_unmeasured_cost_lies_between_its_neighbours_and_is_never_free(
    seconds: dict[int, float], tokens: int
) -> None:
    estimate = PassCost(seconds).estimate(tokens)
    assert estimate is not None and estimate > 0
    below = [seconds[known] for known in seconds if known <= tokens]
    above = [seconds[known] for known in seconds if known >= tokens]
    if below and above:
        assert min(seconds.values()) <= estimate <= max(seconds.values())
