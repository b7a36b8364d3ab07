"""Sums: the reference is the value of what is asked, and held-out numbers are never asked otherwise."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.align.arithmetic import HELD_OUT, arithmetic_rows, sft_rows, value
from cadran.align.data.row import Verifiable
from cadran.errors import UserError


def numbers(row: Verifiable) -> tuple[int, ...]:
    return tuple(sorted(map(int, re.findall(r"\d+", row.messages[0]["content"]))))


def written(row: Verifiable) -> str:
    found = re.search(r"\d[\d ×+-]*\d|\d", row.messages[0]["content"])
    assert found is not None
    return found[0].replace("×", "*")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99), operands=st.integers(2, 4), largest=st.integers(8, 200), held_out=st.booleans(),
    operations=st.sampled_from(["+", "-", "+-", "*", "+-*"]),
)  # fmt: skip
def test_the_reference_is_the_value_of_the_question_and_never_negative(
    seed: int, operands: int, largest: int, held_out: bool, operations: str
) -> None:
    options = {"operands": operands, "largest": largest, "operations": operations, "held_out": held_out}
    rows = list(arithmetic_rows(6, seed, **options))  # type: ignore[arg-type]
    assert rows == list(arithmetic_rows(6, seed, **options))  # type: ignore[arg-type]
    for row in rows:
        assert re.fullmatch(r"[0-9]+", row.reference["answer"])
        assert int(row.reference["answer"]) == eval(written(row))
        assert len(numbers(row)) == operands and max(numbers(row)) <= largest
        assert not set(re.sub(r"[\d ]", "", written(row))) - set(operations)


def test_a_sum_of_products_is_taken_as_it_is_written() -> None:
    assert (value((2, 3, 4), "+*"), value((2, 3, 4), "*-"), value((9, 2, 3, 1), "-*+")) == (14, 2, 4)


def test_held_out_numbers_are_asked_on_one_side_only_whatever_seed_and_language() -> None:
    train = {numbers(row) for seed in range(3) for row in arithmetic_rows(800, seed)}
    held_out = {numbers(row) for seed in range(3, 6) for row in arithmetic_rows(800, seed, held_out=True)}
    assert not train & held_out
    every = 21 * 22 // 2
    assert len(train) + len(held_out) == every  # all there are with numbers up to 20
    assert abs(len(held_out) / every - HELD_OUT) < 0.08


def test_languages_and_operations_are_balanced() -> None:
    rows = list(arithmetic_rows(1000, 0))
    assert Counter(row.language for row in rows) == {"en": 500, "fr": 500}
    assert 430 < sum("+" in written(row) for row in rows) < 570
    assert all(row.language == "fr" for row in arithmetic_rows(9, 0, languages=("fr",)))
    asked = {row.messages[0]["content"] for row in rows}
    assert any(text.startswith("Combien font ") for text in asked) and any(
        text.startswith("What is ") for text in asked
    )


def test_warm_up_rows_answer_the_same_questions_in_the_rewarded_form() -> None:
    asked, taught = list(arithmetic_rows(20, 4)), list(sft_rows(20, 4))
    for row, lesson in zip(asked, taught, strict=True):
        assert lesson.messages[:1] == row.messages and lesson.task == "arithmetic"
        assert lesson.messages[1:] == [{"role": "assistant", "content": row.reference["answer"]}]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"operands": 1}, "give 2, 3 or 4 operands"),
        ({"operands": 9}, "give 2, 3 or 4 operands"),
        ({"largest": 0}, "give 1 or more"),
        ({"operations": "+/"}, "no operation '/'"),
        ({"operations": ""}, "no operation"),
        ({"languages": ("de",)}, "asked in de"),
        ({"languages": ()}, "asked in nothing"),
        ({"operands": 3, "largest": 1, "held_out": True}, "leave no question held out"),
    ],
)
def test_what_cannot_be_asked_is_said(options: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        list(arithmetic_rows(1, 0, **options))
