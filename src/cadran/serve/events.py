"""What a generation tells a translator: plain events, the same for every API family.

``index`` is the answer's number among those of the request. The order for one answer: any number of ``Reasoned``,
``Spoke`` and calls (``CallBegan``, ``CallArguments``, ``CallEnded``), then one ``Finished``. Before all stand
``Admitted`` and, with the first token, ``Prefilled``; after all stands ``Used``, or ``Failed`` when something broke.
"""

from dataclasses import dataclass
from typing import Literal

from cadran.engine.request import Scored
from cadran.serve.api_error import ApiError

Reason = Literal["eos", "stop_string", "length", "context", "tools", "cancelled"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request was understood and has its place; the prompt of ``prompt_tokens`` tokens is about to be read."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt was read; ``cached_tokens`` of it were there already.

    Attributes:
        prompt: its tokens with their log-probabilities, when they were asked for.
        index: of the first answer to this prompt (a request may have several prompts).
    """

    cached_tokens: int
    prompt: tuple[Scored, ...] = ()
    index: int = 0


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A piece of what the model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Spoke:
    """A piece of the answer.

    Attributes:
        index: of the answer.
        text: whole characters; may be empty when only ``tokens`` matter.
        tokens: with log-probabilities, when they were asked for.
    """

    index: int
    text: str
    tokens: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The model calls a tool.

    Attributes:
        index: of the answer.
        call: 0 for its first call, 1 for the second, ...
        id: unique; families put their own prefix before it.
        name: of the tool.
    """

    index: int
    call: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments; the pieces of a call make one valid JSON object."""

    index: int
    call: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is complete."""

    index: int
    call: int


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer is over.

    Attributes:
        index: of the answer.
        reason: ``tools`` when it made calls and was not cut off.
        stop: the stop string that ended it.
    """

    index: int
    reason: Reason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """The very last event: what all answers took.

    Attributes:
        prompt_tokens: of the prompts, the cached ones included.
        cached_tokens: of those.
        generated_tokens: of all answers.
        reasoning_tokens: of those, spent on thinking.
        queued: seconds of waiting for a place.
        first_token: seconds from having a place to the first token; 0 when there was none.
        seconds: from having a place to the end.
        loaded: seconds spent on opening the model; 0 when it was there.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    reasoning_tokens: int = 0
    queued: float = 0.0
    first_token: float = 0.0
    seconds: float = 0.0
    loaded: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """Something broke after the answer had begun; nothing comes after it."""

    error: ApiError


Event = Admitted | Prefilled | Reasoned | Spoke | CallBegan | CallArguments | CallEnded | Finished | Used | Failed
