"""A request that was admitted: its place, its model and its events, until it is closed.

Made by ``Service.begin``. Read it once, as events or collected; close it in any case.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from time import perf_counter

from cadran.serve.computed import Computed
from cadran.serve.events import Admitted, Event, Failed, Finished, Prefilled, Used
from cadran.serve.generation import Generation, merged
from cadran.serve.served_model import ServedModel

Closed = Callable[["Exchange"], None]


class Exchange:
    """An async iterator of events, from ``Admitted`` to ``Used`` or ``Failed``.

    Args:
        generations: one for each prompt.
        served: the model.
        queued: seconds of waiting for a place.
        loaded: seconds of waiting for the model.
        closed: called once, when it is over.

    Attributes:
        model: the name that answers give: as the client wrote it.
        used: what it took, once that is known.
        outcome: ``done``, ``failed``, or ``cancelled`` when it was closed before its end.
        first_token: seconds from the admission to the first token, None before.
        stamps: when each piece came, by ``perf_counter``, for the metrics.
    """

    def __init__(
        self, generations: Sequence[Generation], served: ServedModel, *, queued: float, loaded: float, closed: Closed
    ) -> None:
        self._generations, self.served, self._closed = list(generations), served, closed
        self.request = self._generations[0].request
        self.model = self.request.model
        self.queued, self.loaded = queued, loaded
        self.prompt_tokens = sum(generation.prompt_tokens for generation in self._generations)
        self.used: Used | None = None
        self.outcome = "cancelled"
        self.begun = perf_counter()
        self.first_token: float | None = None
        self.stamps: list[float] = []
        self._over = False

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """The ids of the prompts, in order."""
        return [generation.prompt_ids for generation in self._generations]

    @property
    def answers(self) -> int:
        """How many there will be, to all prompts."""
        return sum(generation.request.answers for generation in self._generations)

    @property
    def room(self) -> int:
        """Most tokens of all answers."""
        return sum(generation.room * generation.request.answers for generation in self._generations)

    @property
    def generated_tokens(self) -> int:
        """Of all answers, so far."""
        return sum(generation.generated for generation in self._generations)

    @property
    def computed(self) -> Computed:
        """What it took, once it is closed."""
        used, request = self.used, self.request
        return Computed(
            model=self.served.known.name,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=used.cached_tokens if used else 0,
            generated_tokens=self.generated_tokens,
            queued=self.queued,
            loaded=self.loaded,
            first_token=self.first_token,
            seconds=self.queued + self.loaded + perf_counter() - self.begun,
            outcome=self.outcome,
            stamps=self.stamps if self.answers == 1 else (),
            asked=request.messages or request.prompt,
        )

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        yield Admitted(self.prompt_tokens)
        async for event in merged(self._generations):
            match event:
                case Prefilled():
                    self.first_token = self.first_token or perf_counter() - self.begun
                case Finished():
                    pass
                case Failed():
                    self.outcome = "failed"
                case Used():
                    event = self.used = replace(event, queued=self.queued, loaded=self.loaded)
                    self.outcome = "done"
                case _:
                    self.stamps.append(perf_counter())
            yield event

    def close(self) -> None:
        """Give the place, the model and the blocks back; may be called twice."""
        if not self._over:
            self._over = True
            for generation in self._generations:
                generation.close()
            self._closed(self)

    async def __aenter__(self) -> "Exchange":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
