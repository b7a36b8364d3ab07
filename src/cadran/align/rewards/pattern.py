"""Rewards for the form of an answer: a regular expression that is found in it, or a form that all of it must have."""

import re
import string
from collections.abc import Sequence

from pydantic import Field, PrivateAttr, field_validator, model_validator

from cadran.align.rewards.limited import Limited
from cadran.align.rewards.reward import Graded


def _compiled(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"it is no regular expression: {error}") from None
    return pattern


class Regex(Limited):
    """1 when a regular expression is found in the answer, else 0.

    Attributes:
        pattern: in Python's syntax; ``(?i)``, ``(?s)`` and the like at its start set flags.
        absent: turn the result round: 1 when it is not found.
    """

    name: str = "regex"
    pattern: str
    absent: bool = False

    _check = field_validator("pattern")(_compiled)

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """1 or 0."""
        request = {"pattern": self.pattern, "whole": False, "text": graded[index].answer}
        found = self.ask(request, index, graded)
        return 1.0 - found if self.absent else found


class Format(Limited):
    """1 when the whole answer has a form, else 0; white space around it does not count.

    Attributes:
        template: literal text with names in braces that stand for any text that is not blank, such as
            ``<think>{thought}</think><answer>{answer}</answer>``; each piece of literal text must occur once.
        pattern: a regular expression instead, which must match from end to end (a point matches line ends too).
    """

    name: str = "format"
    template: str | None = Field(default=None, min_length=1)
    pattern: str | None = None
    _literals: list[str] = PrivateAttr(default_factory=list)

    _check = field_validator("pattern")(_compiled)

    @model_validator(mode="after")
    def _one_of_two(self) -> "Format":
        if (self.template is None) == (self.pattern is None):
            raise ValueError("give template or pattern, one of them")
        if self.template is not None:
            self._literals.extend(_split(self.template))
        return self

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """1 or 0."""
        answer = graded[index].answer.strip()
        if self.pattern is not None:
            return self.ask({"pattern": self.pattern, "whole": True, "text": answer}, index, graded)
        return float(fits(answer, self._literals))


def _split(template: str) -> list[str]:
    """The literal texts of a template, before, between and after its names."""
    literals = [""]
    try:
        for literal, name, form, conversion in string.Formatter().parse(template.strip()):
            literals[-1] += literal
            if name is None:
                continue
            if not name.isidentifier() or form or conversion:
                raise ValueError(f"{{{name}}} is no name")
            literals.append("")
    except ValueError as error:
        raise ValueError(f"the template cannot be read ({error}); write {{{{ for a brace") from None
    if len(literals) == 1:
        raise ValueError("the template has no {name}")
    if any(not literal.strip() for literal in literals[1:-1]):
        raise ValueError("two names of the template have no text between them")
    return literals


def fits(text: str, literals: Sequence[str]) -> bool:
    """Whether a text is the literals in order with text that is not blank between them; takes linear time."""
    first, last = literals[0], literals[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for literal in literals[1:-1]:
        found = text.find(literal, place, end)
        if found < 0 or not text[place:found].strip():
            return False
        place = found + len(literal)
    once = all(text.count(literal) == literals.count(literal) for literal in literals if literal.strip())
    return once and bool(text[place:end].strip())
