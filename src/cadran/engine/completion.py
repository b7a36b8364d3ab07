"""The reader's end of a request: events as they come, or the whole text at once.

The same object serves a loop, an ``async for`` and ``print``. Nobody has to read it to its end: closed, left by a
cancelled task or forgotten, it takes its request out of the scheduler before the next step.
"""

from collections.abc import Callable
from types import TracebackType

from cadran.engine.delivery import Parcel, Post
from cadran.engine.event import Event, Usage
from cadran.engine.request import Finish, Scored


class Completion:
    """One or several answers to a prompt: an iterator and an async iterator of events.

    Iterating raises ``UserError`` where the request is refused or, after the events, where an answer ended with
    ``error`` because of the model, and ``RuntimeError`` where the engine failed; so no failure passes for a short text.

    Args:
        post: where the events arrive.
        answers: how many answers there will be.
        cancel: takes the request out of the scheduler; called at most once, and from finalizers too.
        finish: takes one answer out of it.
    """

    def __init__(self, post: Post, answers: int, cancel: Callable[[], None], finish: Callable[[int], None]) -> None:
        self._post, self._cancel, self._finish = post, cancel, finish
        self._texts: list[list[str]] = [[] for _ in range(answers)]
        self._finishes: list[Finish | None] = [None] * answers
        self._scored: list[list[Scored]] = [[] for _ in range(answers)]
        self._prompt: tuple[Scored, ...] = ()
        self._usage: Usage | None = None
        self._waiting: list[Event] = []  # the next one last
        self._failure: Exception | None = None
        self._over = False

    def __iter__(self) -> "Completion":
        return self

    def __next__(self) -> Event:
        while (event := self._next()) is None:
            if self._ended():
                raise StopIteration
            self._take(self._post.get())
        return self._noted(event)

    def __aiter__(self) -> "Completion":
        return self

    async def __anext__(self) -> Event:
        while (event := self._next()) is None:
            if self._ended():
                raise StopAsyncIteration
            try:
                self._take(await self._post.wait())
            except BaseException:  # the task was cancelled
                self.close()
                raise
        return self._noted(event)

    @property
    def waiting(self) -> bool:
        """Whether the next event is here already."""
        return bool(self._waiting)

    def _next(self) -> Event | None:
        """An event that is here already; looked for and taken at once, since another thread may close it between."""
        try:
            return self._waiting.pop()
        except IndexError:
            return None

    def _ended(self) -> bool:
        """Whether nothing more will come; raises what went wrong, once."""
        if self._failure is not None:
            failure, self._failure, self._over = self._failure, None, True
            raise failure
        return self._over

    def _take(self, parcel: Parcel) -> None:
        if not self._over:  # else it was closed meanwhile
            self._waiting, self._failure = parcel.events[::-1], parcel.failure

    def _noted(self, event: Event) -> Event:
        self._texts[event.index].append(event.text)
        if event.scored is not None:
            self._scored[event.index].append(event.scored)
        self._prompt = event.prompt or self._prompt
        self._usage = event.usage or self._usage
        if event.finish is not None:
            self._finishes[event.index] = event.finish
            self._over |= None not in self._finishes  # closed meanwhile, it stays closed
        return event

    def close(self) -> None:
        """Stop wanting the rest: the request ends within one step, and iterating ends here."""
        if not self._over:
            self._over = True
            self._cancel()
            self._post.put(Parcel([]))  # a reader that waits in another thread goes on, and sees the end
        self._failure = None
        self._waiting.clear()

    def end(self, index: int) -> None:
        """Stop wanting the rest of one answer: it ends within one step, and its last event says ``cancelled``."""
        if not self._over and self._finishes[index] is None:
            self._finish(index)

    def __enter__(self) -> "Completion":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            self._over = True
            self._cancel()

    def read(self) -> "Completion":
        """Read to the end, and return itself."""
        for _ in self:
            pass
        return self

    @property
    def texts(self) -> list[str]:
        """Every answer, whole."""
        self.read()
        return ["".join(pieces) for pieces in self._texts]

    @property
    def text(self) -> str:
        """The first answer, whole."""
        return self.texts[0]

    @property
    def finishes(self) -> "list[Finish | None]":
        """Why each answer ended; None where it was closed before."""
        self.read()
        return list(self._finishes)

    @property
    def finish(self) -> "Finish | None":
        """Why the first answer ended."""
        return self.finishes[0]

    @property
    def scored(self) -> list[list[Scored]]:
        """The tokens of every answer with their log-probabilities, when they were asked for."""
        self.read()
        return [list(tokens) for tokens in self._scored]

    @property
    def prompt(self) -> tuple[Scored, ...]:
        """The prompt's tokens with their log-probabilities, when they were asked for."""
        self.read()
        return self._prompt

    @property
    def usage(self) -> Usage | None:
        """Tokens and seconds; None when it was closed before its end."""
        self.read()
        return self._usage

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        # Never reads: a debugger that shows a variable must not wait for a model.
        state = "read" if self._over and not self._waiting else "under way"
        return f"<Completion of {len(self._texts)}, {state}>"
