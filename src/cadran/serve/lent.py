"""A place and an open model for work that is no generation: scoring, embeddings. Generations begin with ``Service``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from cadran.serve.computed import Computed
from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service


@dataclass
class Loan:
    """A model in use.

    Attributes:
        served: the model.
        queued: seconds of waiting for a place.
        loaded: seconds of waiting for the model.
        prompt_tokens: read so far, the cached ones included.
        cached_tokens: of those.
    """

    served: ServedModel
    queued: float
    loaded: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    _begun: float = field(default_factory=perf_counter)

    def read(self, tokens: int, cached: int = 0) -> None:
        """Account for tokens that are read, of which some were remembered."""
        self.prompt_tokens += tokens
        self.cached_tokens += cached

    def computed(self, outcome: str) -> Computed:
        """What it took."""
        return Computed(
            model=self.served.known.name,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=0,
            queued=self.queued,
            loaded=self.loaded,
            first_token=None,
            seconds=self.queued + self.loaded + perf_counter() - self._begun,
            outcome=outcome,
        )


@asynccontextmanager
async def lent(service: Service, model: str, adapter: str | None = None) -> AsyncIterator[Loan]:
    """Wait for a place like every request, and keep it and the model for as long as the context lasts.

    Use it as ``async with lent(service, body.model) as loan:``, within ``until_gone``, and tell the loan what is read:
    it is accounted for at the end.

    Args:
        service: whose places and models.
        model: name, as the client wrote it.
        adapter: a LoRA adapter by name, over the model.

    Raises:
        ApiError: no such model, it cannot be opened, or too many wait already.
    """
    known = service.shelf.resolve(model, adapter)
    queued = await service.admission.enter()
    begun, loan, outcome = perf_counter(), None, "cancelled"
    try:
        async with service.shelf.lend(known) as served:
            loan = Loan(served, queued, perf_counter() - begun)
            yield loan
            outcome = "done"
    except Exception:
        outcome = "failed"
        raise
    finally:
        service.admission.leave()
        if loan is not None and loan.prompt_tokens:
            service.tell(loan.computed(outcome))
