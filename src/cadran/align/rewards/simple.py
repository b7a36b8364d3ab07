"""Rewards that need nothing but the answer: its length, its language, and whether it ended."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.reward import Graded
from cadran.corpus.language import UNDETERMINED, identify


class Ended(BuiltIn):
    """0 for an answer that ended by itself, ``penalty`` for one that was cut.

    Source: Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO" (a fixed score without end of text).
    """

    name: str = "ended"
    penalty: Annotated[float, Field(le=0)] = -1.0

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """0 or the penalty."""
        return 0.0 if graded[index].ended else self.penalty


class Length(BuiltIn):
    """0 for an answer within a range of lengths, falling to -1 outside it.

    Attributes:
        minimum, maximum: the range; null leaves that side open.
        soft: so much outside the range gives -1, half of it -0.5; 0 gives -1 at once.
        unit: what is counted.

    Source: Yu et al. 2025 (DAPO), eq. 13, soft overlong punishment, here on both sides.
    """

    name: str = "length"
    minimum: Annotated[int, Field(ge=0)] | None = None
    maximum: Annotated[int, Field(ge=0)] | None = None
    soft: Annotated[float, Field(ge=0)] = 0.0
    unit: Literal["characters", "words"] = "words"

    @model_validator(mode="after")
    def _has_range(self) -> "Length":
        if self.minimum is None and self.maximum is None:
            raise ValueError("give minimum, maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum is above maximum")
        return self

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """Between -1 and 0."""
        answer = graded[index].answer
        length = len(answer.strip()) if self.unit == "characters" else len(answer.split())
        outside = max((self.minimum or 0) - length, length - (length if self.maximum is None else self.maximum), 0)
        return -min(1.0, outside / self.soft) if self.soft else -float(outside > 0)


class Language(BuiltIn):
    """1 when the answer is in the language of the question, else 0; texts under 20 letters have no language.

    Attributes:
        field: of the row that holds the expected ISO 639-1 code; where the row has none, the question's language.
        language: the one expected of every answer, instead.
    """

    name: str = "language"
    field: str = "language"
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = None

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """1 or 0."""
        row = graded[index]
        expected = self.language or str(row.reference.get(self.field) or "") or identify(_clean(row.question))
        found = identify(_clean(row.answer))
        return float(found == expected and found != UNDETERMINED)


def _clean(text: str) -> str:
    """Half characters replaced: the classifier takes UTF-8 alone."""
    return text.encode("utf-8", "replace").decode("utf-8")
