import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cadran.align.rewards.catalogue import parse_rewards
from cadran.align.rewards.reward import Graded, Weighted, grade
from cadran.errors import UserError

ROWS = [Graded([{"role": "user", "content": f"What is {n}?"}], str(n), {"answer": "1"}, n != 2) for n in range(3)]


class Returning:
    """A reward that returns whatever it was given."""

    name = "mine"

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def __call__(self, graded: Sequence[Graded]) -> Any:
        return self.returned


class Raising:
    name = "mine"

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        raise ZeroDivisionError("no such luck")


class Hanging:
    """Returns when it is let go."""

    name = "mine"

    def __init__(self) -> None:
        self.let_go, self.returned = threading.Event(), threading.Event()

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        self.let_go.wait(60)
        self.returned.set()
        return [0.0] * len(graded)


def test_total_is_the_weighted_sum_and_every_reward_keeps_its_own_values() -> None:
    rewards = parse_rewards([{"exact": None, "weight": 2.0}, "ended"])
    grades = grade(rewards, ROWS)
    assert grades.values.keys() == {"exact", "ended"}
    assert grades.values["exact"].tolist() == [0.0, 1.0, 0.0]
    assert grades.values["ended"].tolist() == [0.0, 0.0, -1.0]
    assert grades.totals.tolist() == [0.0, 2.0, -1.0]
    assert grades.totals.dtype == torch.float32


@pytest.mark.parametrize("returned", [[1, True, 0.5], (1, 1, 0.5), torch.tensor([1, 1, 0.5])])
def test_any_sequence_of_finite_numbers_is_taken(returned: Any) -> None:
    assert grade([Weighted(Returning(returned))], ROWS).totals.tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None, "1", b"1", [1.0], 1j, 1e39, 10**400])
def test_value_that_is_no_finite_number_is_refused_by_reward_and_answer(bad: Any) -> None:
    with pytest.raises(UserError, match=r"`mine` returned .* for answer 2 of 3 \(question “What is 1\?”\)"):
        grade([Weighted(Returning([0.0, bad, 0.0]))], ROWS)


@pytest.mark.parametrize("returned", [None, 1.0, "abc", {0: 1.0, 1: 1.0, 2: 1.0}, [1.0], [1.0] * 4, []])
def test_wrong_type_or_count_is_refused(returned: Any) -> None:
    with pytest.raises(UserError, match=r"`mine` returned"):
        grade([Weighted(Returning(returned))], ROWS)


def test_reward_that_raises_is_named_with_what_it_raised() -> None:
    with pytest.raises(UserError, match=r"`mine` raised ZeroDivisionError \(no such luck\)"):
        grade([Weighted(Raising())], ROWS)


def test_reward_that_hangs_is_given_up_on() -> None:
    hanging = Hanging()
    with pytest.raises(UserError, match=r"`mine` did not return within 0.2 seconds"):
        grade([Weighted(hanging)], ROWS, timeout=0.2)
    assert not hanging.returned.is_set()
    hanging.let_go.set()


def test_equal_names_and_no_reward_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        grade([Weighted(Returning([1, 1, 1])), Weighted(Returning([1, 1, 1]))], ROWS)
    with pytest.raises(ValueError, match="at least"):
        grade([], ROWS)


def test_no_answers_have_no_grades() -> None:
    assert grade(parse_rewards(["exact", "ended", {"length": {"maximum": 3}}]), []).totals.tolist() == []
