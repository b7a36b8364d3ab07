"""What a reward is, and how the rewards of a batch of answers are summed and checked.

A reward that raises, returns something else than one finite number per answer, or never returns, must stop the
training with a sentence that says which one, for which answer and what it returned: a silent zero would be learnt.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cadran.align.rewards.finite import number_of
from cadran.align.rows import Message
from cadran.errors import UserError

_SHOWN = 60  # characters of a question or of a returned value in an error


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer to grade.

    Attributes:
        messages: the conversation before the answer (``role`` and ``content``).
        answer: its text, without the stop token.
        reference: the row's other fields, such as ``{"answer": "42"}``; ``source`` among them names it in errors.
        ended: it ended by itself, and was not cut.
    """

    messages: list[Message]
    answer: str
    reference: Mapping[str, Any]
    ended: bool = True

    @property
    def question(self) -> str:
        """The last user turn, or "" where there is none."""
        turns = (message.get("content", "") for message in reversed(self.messages) if message.get("role") == "user")
        return str(next(turns, ""))


class Reward(Protocol):
    """Anything that grades answers: ``name`` and a call that gives one finite number per answer.

    One that sets ``bounded = True`` says that it keeps its own time limit and is run in the caller's thread; any other
    is run beside it and given up on when it takes too long.
    """

    @property
    def name(self) -> str:
        """What the figures of this reward are called."""
        ...

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        """The value of each answer, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """A reward and what its values are multiplied by before they are added to the others'."""

    reward: Reward
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Grades:
    """The rewards of A answers.

    Attributes:
        totals: float32 (A,), the weighted sum.
        values: float32 (A,) of each reward by its name, before weighting.
    """

    totals: Tensor
    values: dict[str, Tensor]


def grade(rewards: Sequence[Weighted], graded: Sequence[Graded], *, timeout: float = 60.0) -> Grades:
    """Grade a batch of answers by every reward.

    Args:
        rewards: at least one.
        graded: A answers.
        timeout: seconds that a reward which keeps no time limit of its own may take for the batch.

    Raises:
        UserError: a reward raised, did not return in time, or did not return one finite number per answer.
        ValueError: there is no reward, or two of them have one name.
    """
    names = [weighted.reward.name for weighted in rewards]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"rewards need different names, and there must be one at least: {names}")
    totals = torch.zeros(len(graded), dtype=torch.float64)
    values: dict[str, Tensor] = {}
    for weighted in rewards:
        found = checked(weighted.reward.name, _call(weighted.reward, graded, timeout), graded)
        tensor = torch.tensor(found, dtype=torch.float64)
        totals += weighted.weight * tensor
        values[weighted.reward.name] = tensor.float()
    return Grades(totals.float(), values)


def named(index: int, graded: Sequence[Graded]) -> str:
    """An answer in words for an error: its place in the batch, its row where known, its question's beginning."""
    row = graded[index]
    source = f", row {row.reference['source']}" if row.reference.get("source") else ""
    return f"answer {index + 1} of {len(graded)}{source} (question “{shortened(row.question)}”)"


def shortened(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def checked(name: str, returned: Any, graded: Sequence[Graded]) -> list[float]:
    """One finite number per answer, or the sentence that says what came instead.

    Raises:
        UserError: the reward returned no sequence, the wrong number of values, or a value that is no finite number.
    """
    if isinstance(returned, str | bytes | Mapping) or not hasattr(returned, "__len__"):
        raise UserError(
            f"The reward `{name}` returned {_repr(returned)}: it must return a list with one number per answer."
        )
    try:
        items = list(returned)
    except Exception as error:
        raise UserError(
            f"The reward `{name}` returned what cannot be read as a list ({error}): return a list."
        ) from error
    if len(items) != len(graded):
        raise UserError(
            f"The reward `{name}` returned {len(items)} values for {len(graded)} answers: it must return one for each."
        )
    numbers = []
    for index, value in enumerate(items):
        number = number_of(value)
        if number is None:
            raise UserError(
                f"The reward `{name}` returned {_repr(value)} for {named(index, graded)}: it must return a finite "
                "number."
            )
        numbers.append(number)
    return numbers


def _repr(value: Any) -> str:
    try:
        return shortened(repr(value))
    except Exception:
        return f"a {type(value).__name__}"


def _call(reward: Reward, graded: Sequence[Graded], timeout: float) -> Any:
    """What the reward returns, or a UserError; a function that hangs is left behind in its own thread."""
    returned: list[Any] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(reward(graded))
        except BaseException as error:
            raised.append(error)

    if getattr(reward, "bounded", False):
        work()
    else:
        thread = threading.Thread(target=work, name=f"reward {reward.name}", daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            raise UserError(
                f"The reward `{reward.name}` did not return within {timeout:g} seconds for {len(graded)} answers: make "
                "it faster, or give it more time."
            )
    if raised:
        if isinstance(raised[0], UserError) or not isinstance(raised[0], Exception):
            raise raised[0]
        raise UserError(
            f"The reward `{reward.name}` raised {type(raised[0]).__name__} ({shortened(str(raised[0]))}) for a batch "
            f"of {len(graded)} answers: mend it."
        ) from raised[0]
    return returned[0]
