"""What an engine tells while it answers: one event for each token, and one where an answer ends."""

from dataclasses import dataclass

from cadran.engine.request import Finish, Scored


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: of the prompt, the cached ones included.
        cached_tokens: of the prompt, not read because their keys and values were there.
        generated_tokens: of all answers, tokens that a stop string cut off included, stop ids not.
        first_token_seconds: from the request to its first token; 0 when there was none.
        seconds: from the request to its end.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    first_token_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of an answer.

    Attributes:
        text: whole characters, possibly none yet.
        token: id of the token that brought it; None in the last event of an answer, whose text was only waiting.
        finish: in the last event of an answer: ``stop`` at a stop id, a stop string or the end of a grammar, ``length``
            at a limit, ``cancelled``, ``error``; else None.
        index: which of the answers.
        scored: the token with its log-probabilities, when they were asked for.
        prompt: the prompt's tokens scored, in an event of their own before the first token, when they were asked for.
        stop: the stop string that ended the answer; it is not part of the text.
        message: what went wrong, with ``error``.
        usage: in the very last event.
        cached: in the event of the request's first token: prompt tokens whose keys and values were there; else None.
    """

    text: str
    token: int | None = None
    finish: Finish | None = None
    index: int = 0
    scored: Scored | None = None
    prompt: tuple[Scored, ...] = ()
    stop: str | None = None
    message: str | None = None
    usage: Usage | None = None
    cached: int | None = None
