"""From the scheduler's tokens to a reader's events: text, stop strings and figures, on the compute thread.

Stop strings are sought here and not where the text is read, so that an answer ends at once however slow its reader is.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

from cadran.engine.event import Event, Usage
from cadran.engine.mailbox import Mailbox
from cadran.engine.request import Finish, Produced, Request
from cadran.engine.text import TextStream
from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer


class Parcel(NamedTuple):
    """What reaches the reader at once.

    Attributes:
        events: in order.
        failure: what is raised after them; nothing comes after it.
    """

    events: list[Event]
    failure: Exception | None = None


Post = Mailbox[Parcel]


class Delivery:
    """The events of one request.

    Args:
        request: what was asked.
        tokenizer: the model's own.
        stop: strings that end an answer and are not part of it.
        post: where the events go.
        shown: special ids whose names are part of the text.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        post: Post,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self.request, self.post = request, post
        self._texts: list[TextStream | None] = [
            TextStream(tokenizer, stop, shown=shown, deaf=request.params.min_tokens) for _ in range(request.answers)
        ]
        self._begun, self._first = perf_counter(), 0.0
        self._cached = self._generated = 0
        self._failure: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether every answer has ended."""
        return all(text is None for text in self._texts)

    def deliver(self, produced: Produced) -> bool:
        """Tell the reader.

        Returns:
            Whether a stop string was found, so that the scheduler should go no further with this answer.
        """
        text = self._texts[produced.answer]
        if text is None:  # tokens that were under way when the answer ended
            return False
        self._cached = max(self._cached, produced.cached)
        events = [Event("", index=produced.answer, prompt=produced.prompt)] if produced.prompt else []
        for scored in produced.tokens:
            cached = None
            if not self._first:
                self._first = perf_counter() - self._begun
                cached = self._cached
            self._generated += 1
            said = text.push(scored.token)
            shown = scored if self.request.logprobs or self.request.top else None
            events.append(Event(said, scored.token, index=produced.answer, scored=shown, cached=cached))
            if text.stopped is not None:
                break
        stopped = text.stopped
        if stopped is not None:
            events.append(self._last(produced.answer, "", "stop", stop=stopped))
        elif produced.finish is not None:
            rest = text.flush()
            finish = produced.finish if text.stopped is None else "stop"
            events.append(self._last(produced.answer, rest, finish, text.stopped, produced.message))
        if produced.finish == "error" and stopped is None and self._failure is None:
            self._failure = UserError(produced.message or "the model gave no usable numbers; fetch or make it again")
        if events:
            self.post.put(Parcel(events, self._failure if self.done else None))
        return stopped is not None and produced.finish is None

    def _last(
        self, index: int, text: str, finish: Finish, stop: str | None = None, message: str | None = None
    ) -> Event:
        self._texts[index] = None
        usage = None
        if self.done:
            total = perf_counter() - self._begun
            usage = Usage(len(self.request.prompt), self._cached, self._generated, self._first, total)
        return Event(text, None, finish, index, stop=stop, message=message, usage=usage)

    def drop(self, index: int) -> bool:
        """End one answer whose reader wants no more of it.

        Returns:
            Whether it was under way.
        """
        if self._texts[index] is None:
            return False
        last = self._last(index, "", "cancelled")
        self.post.put(Parcel([last], self._failure if self.done else None))
        return True

    def refuse(self, error: Exception) -> None:
        """Say that the request was never begun, and why."""
        self._texts = [None] * len(self._texts)
        self.post.put(Parcel([], error))

    def fail(self, error: Exception) -> None:
        """End the answers that are under way with ``error``; what they have said so far stays."""
        failure = error
        if not isinstance(error, UserError):
            failure = RuntimeError(f"the engine failed ({type(error).__name__}: {error})")
            failure.__cause__ = error
        events = [
            self._last(index, text.flush(), "error", message=str(failure))
            for index, text in enumerate(self._texts)
            if text is not None
        ]
        self.post.put(Parcel(events, failure))
