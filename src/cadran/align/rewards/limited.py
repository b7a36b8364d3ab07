"""Rewards whose work is done in a child process under a time limit per answer."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.reward import Graded, named, shortened
from cadran.align.rewards.worker import Died, TookTooLong, Worker
from cadran.errors import UserError

START_SECONDS = 120.0
"""For starting an interpreter and importing what a user's file imports, on a busy machine."""


class Limited(BuiltIn):
    """Base of the rewards that may hang.

    Attributes:
        timeout: seconds that one answer may take.
    """

    timeout: Annotated[float, Field(gt=0)] = 10.0
    _worker: Worker = PrivateAttr(default_factory=Worker)

    def close(self) -> None:
        """End the child process, if one was started; it also ends with this object."""
        self._worker.close()

    def ask(self, request: dict[str, Any], index: int, graded: Sequence[Graded]) -> float:
        """Have the child grade one answer.

        Raises:
            UserError: it took too long, ended, raised, or returned no finite number.
        """
        try:
            if not self._worker.started:
                self.start()
            reply = self._worker.ask(request, self.timeout)
        except TookTooLong:
            raise UserError(
                f"The reward `{self.name}` took longer than {self.timeout:g} seconds for {named(index, graded)}: "
                "make it faster, or raise `timeout:`."
            ) from None
        except Died:
            raise UserError(
                f"The process of the reward `{self.name}` ended while it graded {named(index, graded)}: mend the "
                "function (it must return, not exit)."
            ) from None
        if "raised" in reply:
            raise UserError(f"The reward `{self.name}` raised {reply['raised']} for {named(index, graded)}: mend it.")
        if "value" not in reply:
            raise UserError(
                f"The reward `{self.name}` returned {shortened(str(reply.get('wrong')))} for {named(index, graded)}: "
                "it must return a finite number."
            )
        return float(reply["value"])

    def start(self) -> None:
        """Bring the child up, apart from the time limit of an answer.

        Raises:
            TookTooLong, Died: see ``Worker.ask``.
        """
        self._worker.ask({"start": True}, START_SECONDS)
