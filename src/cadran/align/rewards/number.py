"""Numbers as people and models write them: 1,234.5 and 1 234,5 and 1.234,5 are one number.

A single comma before three digits ("1,234") is 1234 in English and 1.234 in French; both readings are kept, and two
texts are equal when they have a reading in common.
"""

import re
from fractions import Fraction

_SPACE = " \u00a0\u202f\u2009'’_"
_NUMBER = re.compile(
    rf"(?<!\w)[-+−–]?(?:[0-9]{{1,3}}(?:[{_SPACE}.,][0-9]{{3}})+(?![0-9])(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?(?:\s?/\s?[0-9]+)?"
)
_MOST_CHARACTERS = 1000
_MOST_EXPONENT = 400


def readings(text: str) -> frozenset[Fraction]:
    """Every number that a text may mean; empty when it is not a number from end to end.

    Args:
        text: such as "-1 234,5", "1,234.5", "3/4" or "2.5e3".
    """
    text = text.strip()
    if not text or len(text) > _MOST_CHARACTERS:
        return frozenset()
    above, slash, below = text.partition("/")
    if slash:
        return frozenset(up / down for up in _decimal(above.strip()) for down in _decimal(below.strip()) if down)
    return _decimal(text)


def last_number(text: str) -> str | None:
    """The last number in a text as it is written there, or None."""
    found = None
    for match in _NUMBER.finditer(text):
        found = match.group()
    return found


def _decimal(text: str) -> frozenset[Fraction]:
    """As ``readings``, without fractions."""
    match = re.fullmatch(rf"([-+−–]?)([0-9{_SPACE}.,]*[0-9])(?:[eE]([-+]?[0-9]{{1,3}}))?", text)
    if not match:
        return frozenset()
    sign, digits, exponent = match.groups()
    power = int(exponent or 0)
    if abs(power) > _MOST_EXPONENT:
        return frozenset()
    scale = Fraction(10) ** power * (-1 if sign in ("-", "−", "–") else 1)
    return frozenset(Fraction(plain) * scale for plain in map(_plain, [digits] * 3, (".", ",", "")) if plain)


def _plain(digits: str, decimal: str) -> str:
    """The digits with a point and no separators, when ``decimal`` ("" for none) is their decimal sign; else ""."""
    whole, part = digits, ""
    if decimal:
        if digits.count(decimal) != 1:
            return ""
        whole, _, part = digits.partition(decimal)
        if not part.isdecimal():
            return ""
    separators = set(re.findall(r"[^0-9]", whole))
    pieces = re.split(r"[^0-9]", whole)
    if separators:
        # A point before three digits at the end is a decimal one (1.234), and no thousands begin with a zero.
        if len(separators) > 1 or decimal in separators or (separators == {"."} and len(pieces) == 2 and not decimal):
            return ""
        if not 1 <= len(pieces[0]) <= 3 or pieces[0][0] == "0" or any(len(piece) != 3 for piece in pieces[1:]):
            return ""
    return f"{''.join(pieces) or '0'}.{part or '0'}"
