"""What the rewards that come with the package have in common: a checked configuration, a time limit of their own."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from cadran.align.rewards.reward import Graded, named
from cadran.errors import UserError


class BuiltIn(BaseModel):
    """A reward configured from a recipe; unknown keys are refused, values do not change.

    Attributes:
        name: what its figures are called; the short name of its kind unless the recipe says otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)

    bounded: ClassVar[bool] = True
    name: str

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        """The value of each answer, in order."""
        return [self.value(index, graded) for index in range(len(graded))]

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """The value of one answer of the batch.

        Raises:
            UserError: the row lacks what this reward needs.
        """
        raise NotImplementedError

    def needed(self, field: str, index: int, graded: Sequence[Graded]) -> Any:
        """A field of an answer's row.

        Raises:
            UserError: the row has no such field, or it is empty.
        """
        reference = graded[index].reference
        value = reference.get(field)
        if value is None or value in ("", []):
            has = ", ".join(sorted(map(str, reference))) or "none"
            raise UserError(
                f"The reward `{self.name}` needs the field `{field}`, which is missing or empty for "
                f"{named(index, graded)} (fields there: {has}): add it to the row, or name another with `field:`."
            )
        return value
