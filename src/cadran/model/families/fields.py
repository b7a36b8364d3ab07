"""The fields of a ``config.json``, read with their types checked: the file comes from strangers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cadran.errors import UserError

LARGEST = 1 << 31
"""No size, count or id is larger; what claims more is damaged."""

MOST_LAYERS = 4096


class Fields:
    """Typed access to a configuration.

    Args:
        content: of ``config.json``, or a mapping inside it.
        where: how to name it in an error.
    """

    def __init__(self, content: Mapping[str, Any], where: str = "config.json") -> None:
        self.content, self.where = content, where

    def integer(self, name: str, default: int | None = None) -> int:
        """A count; absent or null gives ``default``.

        Raises:
            UserError: absent without a default, or no whole number from 0 to 2**31.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
            raise self._wrong(name, value, "a whole number")
        return value

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers, bounded before anything is made for each of them.

        Raises:
            UserError: none, or more than any model has.
        """
        count = self.integer(name)
        if not 1 <= count <= MOST_LAYERS:
            raise self._wrong(name, count, f"a number from 1 to {MOST_LAYERS}")
        return count

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; absent or null gives ``default``.

        Raises:
            UserError: absent without a default, or no finite number.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise self._wrong(name, value, "a number")
        if isinstance(value, int) and abs(value) > LARGEST**2:
            raise self._wrong(name, value, "a number of a model")
        return float(value)

    def optional(self, name: str) -> float | None:
        """A finite number, or None where the field is absent or null."""
        return None if self.content.get(name) is None else self.number(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; absent or null gives ``default``."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; absent or null gives ``default``."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def sequence(self, name: str) -> Sequence[Any]:
        """A list, empty where the field is absent or null."""
        value = self.content.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self._wrong(name, value, "a list")
        return value

    def inner(self, name: str) -> "Fields | None":
        """A mapping inside this one, None where it is absent or null."""
        value = self.content.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return Fields(value, f"{self.where}: {name}")

    def _value(self, name: str, default: Any) -> Any:
        value = self.content.get(name)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"{self.where} has no field {name!r}; fetch or export the model again")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> UserError:
        return UserError(
            f"{self.where} gives {name} as {str(value)[:60]!r}, not {wanted}; fetch or export the model again"
        )
