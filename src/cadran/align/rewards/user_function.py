"""A reward that the user wrote: a function in a Python file of theirs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import field_validator

from cadran.align.rewards.limited import START_SECONDS, Limited
from cadran.align.rewards.reward import Graded
from cadran.align.rewards.worker import Died, TookTooLong
from cadran.errors import UserError


class UserFunction(Limited):
    """What a user's function returns for each answer.

    Attributes:
        function: ``path/to/file.py:name``; called as ``name(messages, answer, reference)`` with the conversation before
            the answer (a list of ``{"role", "content"}``), the answer's text and the row's other fields (a dictionary),
            it returns a finite number. It runs in a process of its own, without a sandbox, and keeps what it imports.
    """

    name: str = "python"
    function: str

    @field_validator("function")
    @classmethod
    def _is_there(cls, given: str) -> str:
        path, _, name = given.rpartition(":")
        if not path.endswith(".py") or not name.isidentifier():
            raise ValueError(f"write path/to/file.py:function, not {given}")
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
        return given

    def value(self, index: int, graded: Sequence[Graded]) -> float:
        """The function's number for one answer."""
        row = graded[index]
        reference = {str(key): _plain(value) for key, value in row.reference.items()}
        return self.ask({"messages": row.messages, "answer": row.answer, "reference": reference}, index, graded)

    def start(self) -> None:
        """Load the user's file in the child.

        Raises:
            UserError: it raises when it is read, takes too long, or has no such function.
        """
        path, _, name = self.function.rpartition(":")
        try:
            reply = self._worker.ask({"load": path, "function": name}, START_SECONDS)
        except (TookTooLong, Died) as error:
            reason = (
                "takes too long to load" if isinstance(error, TookTooLong) else "ends the process when it is loaded"
            )
            raise UserError(f"The reward `{self.name}`: {path} {reason}; keep only definitions in it.") from None
        if "raised" in reply:
            self.close()
            raise UserError(f"The reward `{self.name}`: {path} raised {reply['raised']} when it was loaded: mend it.")
        if "missing" in reply:
            self.close()
            near = f"did you mean `{reply['missing']}`?" if reply["missing"] else "define it."
            raise UserError(f"The reward `{self.name}`: {path} has no function `{name}`: {near}")


def _plain(value: Any) -> Any:
    """A row's value as JSON holds it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
