from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.evaluate.classification import accuracy, majority_accuracy, wilson_interval

LABELS = st.lists(st.sampled_from("abc"), min_size=1)
COUNTS = st.integers(1, 10_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@pytest.mark.parametrize(
    ("successes", "trials", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_the_table_of_newcombe_1998(successes, trials, lower, upper):
    assert wilson_interval(successes, trials) == pytest.approx((lower, upper), abs=5e-5)


@given(COUNTS)
def test_wilson_bounds_lie_where_the_score_test_just_rejects(counts):
    successes, trials = counts
    share = successes / trials
    for bound in wilson_interval(successes, trials):
        if 0 < bound < 1:
            assert (share - bound) ** 2 == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / trials)


@given(COUNTS)
def test_wilson_interval_holds_the_share_and_mirrors(counts):
    successes, trials = counts
    lower, upper = wilson_interval(successes, trials)
    assert 0 <= lower <= successes / trials <= upper <= 1
    assert lower < upper
    mirrored_lower, mirrored_upper = wilson_interval(trials - successes, trials)
    assert (1 - mirrored_upper, 1 - mirrored_lower) == pytest.approx((lower, upper), abs=1e-12)


@given(COUNTS)
def test_wilson_interval_narrows_with_more_trials(counts):
    successes, trials = counts
    lower, upper = wilson_interval(successes, trials)
    lower4, upper4 = wilson_interval(4 * successes, 4 * trials)
    assert upper4 - lower4 < upper - lower


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="impossible"):
        wilson_interval(successes, trials)


def test_accuracy_counts_equal_labels():
    assert accuracy(["a", "b", "c", "a"], ["a", "b", "a", "c"]) == 0.5


@given(LABELS)
def test_right_answers_score_one_and_wrong_ones_zero(labels):
    assert accuracy(labels, labels) == 1
    assert accuracy([label + "!" for label in labels], labels) == 0


@given(LABELS)
def test_majority_is_the_best_constant_answer(labels):
    constants = [accuracy([label] * len(labels), labels) for label in Counter(labels)]
    assert majority_accuracy(labels) == max(constants)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 predictions"):
        accuracy(["a", "b"], ["a"])


def test_no_label_is_the_users_error():
    with pytest.raises(UserError, match="held-out rows"):
        accuracy([], [])
    with pytest.raises(UserError, match="held-out rows"):
        majority_accuracy([])
