import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.rewards.exact import Exact, canonical
from cadran.align.rewards.number import last_number, readings
from cadran.align.rewards.reward import Graded
from cadran.errors import UserError

SPELLINGS = [
    "1 234,5",
    "1\u202f234,5",
    "1\u00a0234,50",
    "1,234.5",
    "1.234,5",
    "1'234.5",
    "1234.5",
    "1,2345e3",
    "2469/2",
]
ANSWERS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="0123456789.,- −/eE+ \u202f'_$%#\n", max_size=24),
    st.sampled_from(["\\boxed{", "\\boxed{4}", "#### 7", "####", "}{", "\ud800", "1e400/3e-400", "0/0", "9" * 3000]),
)


def value(answer: str, right: object, **options: object) -> float:
    (found,) = Exact(**options)([Graded([{"role": "user", "content": "?"}], answer, {"answer": right})])
    return found


@pytest.mark.parametrize("first", SPELLINGS)
@pytest.mark.parametrize("second", SPELLINGS)
def test_french_and_english_spellings_of_one_number_are_equal(first: str, second: str) -> None:
    assert value(first, second) == 1.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1,234", "12.34"),
        ("12", "1.2"),
        ("-3", "3"),
        ("1 234", "12 34"),
        ("0,123", "123"),
        ("1.234", "1234"),
        ("", "0"),
    ],
)
def test_different_numbers_are_not_equal(answer: str, right: str) -> None:
    assert value(answer, right) == 0.0


def test_lone_comma_before_three_digits_is_read_both_ways_and_only_those() -> None:
    assert value("1,234", "1234") == value("1,234", "1.234") == 1.0
    assert value("1234", "1.234") == 0.0


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("  Paris. ", "paris", 1.0),
        ("Cafe\u0301", "Café", 1.0),
        ("not Paris", "Paris", 0.0),
        ("So it is \\boxed{\\frac{1}{2}}, not \\frac{1}{3}.", "\\frac{1}{2}", 1.0),
        ("first \\boxed{3}, then \\boxed{4}", "4", 1.0),
        ("3 + 4 = 7\n#### 7", "7", 1.0),
        ("#### 7\nno, wait\n#### 8", "7", 0.0),
        ("8", "the sum\n#### 8", 1.0),
        ("12 %", "12%", 1.0),
        ("7", 7, 1.0),
        ("7.0", 7, 1.0),
        ("Rome", ["Paris", "Rome"], 1.0),
    ],
)
def test_final_answer_is_found_and_compared(answer: str, right: object, expected: float) -> None:
    assert value(answer, right) == expected


def test_capital_letters_count_where_asked() -> None:
    assert value("paris", "Paris") == 1.0
    assert value("paris", "Paris", case=True) == 0.0


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("2 + 2 = 4.", "4", 1.0),
        ("Cela fait 1 234,50 €, soit beaucoup", "1234.5", 1.0),
        ("I count 3, or rather 5.", "3", 0.0),
        ("x2 is −3", "-3", 1.0),
        ("five", "5", 0.0),
        ("a half, 1/2", "0.5", 1.0),
    ],
)
def test_last_number_is_the_answer_where_asked(answer: str, right: str, expected: float) -> None:
    assert value(answer, right, number=True) == expected


def test_tolerance_is_relative_and_symmetric() -> None:
    assert value("3.14", "3.14159", tolerance=0.001) == value("3.14159", "3.14", tolerance=0.001) == 1.0
    assert value("3.1", "3.14159", tolerance=0.001) == 0.0


@pytest.mark.parametrize("right", ["", " . ", None, []])
def test_row_without_a_right_answer_is_refused_by_name(right: object) -> None:
    with pytest.raises(UserError, match=r"answer 1 of 1"):
        value("", right)


def test_row_without_the_field_is_told_which_fields_it_has() -> None:
    with pytest.raises(UserError, match=r"`solution`.*row 17 of rows.jsonl.*fields there: answer, source"):
        Exact(field="solution")([Graded([], "4", {"answer": "4", "source": "17 of rows.jsonl"})])


@given(text=ANSWERS, number=st.booleans(), case=st.booleans())
def test_every_text_that_holds_an_answer_equals_itself(text: str, number: bool, case: bool) -> None:
    reward = Exact(number=number, case=case)
    assert reward.same(text, text) == bool(canonical(text, number=number, case=case))


@given(first=ANSWERS, second=ANSWERS, number=st.booleans(), tolerance=st.sampled_from([0.0, 0.1]))
def test_equality_is_symmetric(first: str, second: str, number: bool, tolerance: float) -> None:
    reward = Exact(number=number, tolerance=tolerance)
    assert reward.same(first, second) == reward.same(second, first)


@given(number=st.integers(-(10**12), 10**12), places=st.integers(0, 4))
def test_grouped_and_plain_spellings_of_any_number_agree(number: int, places: int) -> None:
    english = f"{number / 10**places:,.{places}f}"
    french = english.replace(",", "\u202f").replace(".", ",")
    assert readings(english) & readings(french) & readings(english.replace(",", ""))
    assert last_number(f"x = {french} !") == french
