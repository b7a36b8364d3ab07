"""A whole answer, for those who did not ask for a stream."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cadran.engine.request import Scored
from cadran.serve.events import (
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reason,
    Reasoned,
    Spoke,
    Used,
)


@dataclass
class Call:
    """A tool call; ``arguments`` is JSON text, ``whole`` unless the answer was cut in it."""

    id: str
    name: str
    arguments: str = ""
    whole: bool = False


@dataclass
class Answer:
    """One of the answers."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[Scored] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    reason: Reason = "cancelled"
    stop: str | None = None


@dataclass
class Collected:
    """All answers, with what they took.

    Attributes:
        answers: by index.
        prompts: the tokens of the prompts with their log-probabilities, by index of the prompt's first answer.
        used: tokens and seconds.
    """

    answers: list[Answer]
    prompts: dict[int, tuple[Scored, ...]]
    used: Used


async def collect(events: AsyncIterator[Event]) -> Collected:
    """Read to the end.

    Raises:
        ApiError: the answer failed.
    """
    answers: dict[int, Answer] = {}
    prompts: dict[int, tuple[Scored, ...]] = {}
    used = Used()
    async for event in events:
        match event:
            case Prefilled(_, prompt, index):
                prompts[index] = prompt
            case Reasoned(index, text):
                answers.setdefault(index, Answer()).reasoning += text
            case Spoke(index, text, tokens):
                answer = answers.setdefault(index, Answer())
                answer.pieces.append(text)
                answer.tokens += tokens
            case CallBegan(index, _, id, name):
                answers.setdefault(index, Answer()).calls.append(Call(id, name))
            case CallArguments(index, call, fragment):
                answers[index].calls[call].arguments += fragment
            case CallEnded(index, call):
                answers[index].calls[call].whole = True
            case Finished(index, reason, stop):
                answer = answers.setdefault(index, Answer())
                answer.reason, answer.stop = reason, stop
                answer.text = "".join(answer.pieces)
            case Failed(error):
                raise error
            case Used():
                used = event
            case _:
                pass
    return Collected([answers[index] for index in sorted(answers)], prompts, used)
