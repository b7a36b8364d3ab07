"""The answer is the right one, however it is written: the reward for whatever has one right answer."""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.number import last_number, readings
from cadran.align.rewards.reward import Graded, named
from cadran.errors import UserError

_READ = 20_000  # last characters of an answer in which the final answer is looked for
_MARKED = re.compile(r"####[ \t]*([^\n]+)")


class Exact(BuiltIn):
    """1 when the answer equals the row's, else 0.

    Of both texts the part is taken that is marked as final answer: the last ``\\boxed{...}``, else what follows the
    last ``####``, else all of it; and of that the last number where ``number`` is set. Then Unicode NFC, white space, a
    full stop at the end and the spelling of numbers make no difference.

    Attributes:
        field: of the row that holds the right answer: text, a number, or a list of right answers.
        number: compare the last number of either text.
        case: capital letters make a difference.
        tolerance: relative difference that two numbers may have.
    """

    name: str = "exact"
    field: str = "answer"
    number: bool = False
    case: bool = False
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """1 or 0."""
        right = self.needed(self.field, index, graded)
        texts = [str(item) for item in right] if isinstance(right, list | tuple) else [str(right)]
        for text in texts:
            if not canonical(text, number=self.number, case=self.case):
                raise UserError(
                    f"The reward `{self.name}` finds no {'number' if self.number else 'text'} in the field "
                    f"`{self.field}` of {named(index, graded)}: correct the row."
                )
        return float(any(self.same(graded[index].answer, text) for text in texts))

    def same(self, first: str, second: str) -> bool:
        """Whether two texts give one answer; symmetric."""
        one = canonical(first, number=self.number, case=self.case)
        other = canonical(second, number=self.number, case=self.case)
        if not one or not other:
            return False
        if one == other:
            return True
        return any(self._near(a, b) for a in readings(one) for b in readings(other))

    def _near(self, a: Fraction, b: Fraction) -> bool:
        return a == b or abs(a - b) <= Fraction(self.tolerance) * max(abs(a), abs(b))


def canonical(text: Any, *, number: bool, case: bool) -> str:
    """The final answer in a text, in one spelling; "" when there is none."""
    text = unicodedata.normalize("NFC", str(text)[-_READ:])
    found = _boxed(text)
    if found is None:
        marked = _MARKED.findall(text)
        found = marked[-1] if marked else text
    if number:
        found = last_number(found) or ""
    found = " ".join(found.split()).strip("$ ").rstrip(".。 ").strip()
    found = re.sub(r" (?=[%‰°€$£!?:;])", "", found)
    return found if case else unicodedata.normalize("NFC", found.casefold())


def _boxed(text: str) -> str | None:
    """What the last ``\\boxed{...}`` holds, braces balanced; None where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None
