"""Numbers in the report are said as a person says them."""

import pytest

from cadran.recipe.report.wording import duration, operations, plain, rounded, size


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (duration(0.04), "0.0 s"),
        (duration(9.96), "10 s"),
        (duration(59.6), "1 min 00 s"),
        (duration(552), "9 min 12 s"),
        (duration(3599.6), "1 h 00 min"),
        (duration(7500), "2 h 05 min"),
        (rounded(11_933_184), "11.9 million"),
        (rounded(999_999), "1.00 million"),
        (rounded(4096), "4,096"),
        (size(4_931_220), "4.93 MB"),
        (size(999), "999 B"),
        (operations(1.03e15), "1.03 peta"),
        (operations(3.1e11), "310 giga"),
        (plain(0.69315), "0.693"),
        (plain(-120.4), "\N{MINUS SIGN}120"),
        (plain(12345.6), "12346"),
        (plain(-0.0), "0"),
        (plain(0.0000123), "1.23e\N{MINUS SIGN}05"),
    ],
)
def test_numbers_are_said_as_a_person_says_them(said: str, words: str) -> None:
    assert said.replace("\N{NO-BREAK SPACE}", " ") == words
