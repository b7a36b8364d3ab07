"""What every API family calls: models, admission and generations behind a few methods, and nothing of HTTP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.library.catalogue import run_models
from cadran.library.find import find_pulled, pulled_names
from cadran.recipe.run import find_model, runs_folder
from cadran.serve.adapters import Adapters
from cadran.serve.admission import Admission
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.computed import Computed
from cadran.serve.exchange import Exchange
from cadran.serve.generation import Generation, render
from cadran.serve.known_model import KnownModel
from cadran.serve.score_limit import limit_scores
from cadran.serve.served_model import ServedModel
from cadran.serve.settings import ServeSettings
from cadran.serve.shelf import Shelf, with_aliases
from cadran.serve.state.database import Database

log = logging.getLogger(__name__)

Listener = Callable[[Computed], None]


class Service:
    """The models of a server and those who are served.

    Args:
        settings: how it behaves.
        open: opens a model, for tests; None opens as the settings say.

    Attributes:
        shelf: the models.
        adapters: which of them lies over which model.
        admission: who has a place.
        exchanges: under way, in the order in which they began.
        listeners: told of everything that was computed: metrics, accounting.
        endings: awaited when the server stops and its grace is over: they end what outlives its connection.
        closings: awaited before the database is closed: they wait for what is being stored.
        database: what must survive a restart; opened when it is first asked for.
    """

    def __init__(self, settings: ServeSettings, open: Callable[[KnownModel], Engine] | None = None) -> None:
        self.settings = settings
        memory = None if settings.memory is None else int(settings.memory * 1e9)
        self.adapters = Adapters(settings.adapters, settings.alias, settings.adapter_folder)
        self.shelf = Shelf(self._find, open or self._open, memory=memory, keep_alive=settings.keep_alive)
        self.admission = Admission(settings.parallel, settings.queue)
        self.exchanges: list[Exchange] = []
        self.listeners: list[Listener] = []
        self.endings: list[Callable[[], Awaitable[None]]] = []
        self.closings: list[Callable[[], Awaitable[None]]] = []

    @cached_property
    def database(self) -> Database:
        """See the class."""
        return Database(self.settings.database)

    def _find(self) -> list[KnownModel]:
        names = self.settings.models
        if names:
            found = [KnownModel(name_of(name), find_model(name)) for name in names]
        else:
            found = list(_trained())
            found += [KnownModel(name, path) for name in pulled_names() if (path := _pulled(name)) is not None]
        return with_aliases([*found, *self.adapters.over(found)], self.settings.alias)

    def _open(self, known: KnownModel) -> Engine:
        settings = self.settings
        draft = settings.draft
        return Engine.load(
            known.path, settings.template, known.adapter, runner=settings.runner, threads=settings.threads,
            context=settings.context, kv=settings.kv, activations=settings.activations,
            draft="lookup" if draft == "lookup" else find_model(draft) if draft else None,
        )  # fmt: skip

    async def begin(self, *requests: GenerateRequest) -> Exchange:
        """Admit the requests, all for one model: each prompt is one, its answers computed with those of the others.

        Returns:
            To be read and closed. Nothing was computed yet that a refusal could follow.

        Raises:
            ApiError: no such model, no place, or the request is refused.
        """
        seconds = self.settings.deadline
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._begun(requests, deadline)
        except TimeoutError as error:
            raise ApiError("timeout", "the request waited longer than this server allows; try again later") from error

    async def _begun(self, requests: Sequence[GenerateRequest], deadline: float | None) -> Exchange:
        answers = sum(request.answers for request in requests)
        if not 0 < answers <= self.settings.max_answers:
            raise ApiError(
                "invalid", f"{answers} answers were asked for; ask for 1 to {self.settings.max_answers}", param="n"
            )
        known = self.shelf.resolve(requests[0].model, requests[0].adapter)
        loop = asyncio.get_running_loop()
        queued = await self.admission.enter()
        begun = loop.time()
        try:
            served = await self.shelf.take(known)
        except BaseException:
            self.admission.leave()
            raise
        loaded = loop.time() - begun
        generations: list[Generation] = []
        try:
            for request in requests:
                generations.append(Generation(request, served, await render(request, served), deadline))
            limit_scores(generations)
            for generation in generations:
                if generation.request.grammar is None and not generation.request.tools:
                    generation.start()
                else:  # compiling a grammar may take a second
                    await asyncio.to_thread(generation.start)
        except BaseException:
            for generation in generations:
                generation.close()
            self._leave(served)
            raise
        exchange = Exchange(generations, served, queued=queued, loaded=loaded, closed=self._closed)
        self.exchanges.append(exchange)
        return exchange

    async def prompt_ids(self, request: GenerateRequest) -> tuple[int, ...]:
        """The ids that a request would be read as, for counting and for show. Needs no place in the queue.

        Raises:
            ApiError: as ``begin``.
        """
        async with self.shelf.lend(self.shelf.resolve(request.model, request.adapter)) as served:
            return (await render(request, served)).ids

    def _leave(self, served: ServedModel) -> None:
        self.shelf.give_back(served)
        self.admission.leave()

    def _closed(self, exchange: Exchange) -> None:
        self.exchanges.remove(exchange)
        self._leave(exchange.served)
        self.tell(exchange.computed)

    def tell(self, computed: Computed) -> None:
        """Tell the listeners what was computed."""
        for listener in self.listeners:
            try:
                listener(computed)
            except Exception:
                log.exception("a listener failed")

    async def drain(self, grace: float) -> None:
        """Take no more requests and wait for those under way; what is left after ``grace`` seconds ends with an error.

        The models are closed in any case.
        """
        self.admission.drain()
        try:
            await asyncio.wait_for(self.admission.idle(), grace)
        except TimeoutError:
            log.warning("stopping with requests under way", extra={"running": self.admission.running})
            self.admission.give_up()
        for end in self.endings:
            await end()
        await self.shelf.end()

    async def close(self) -> None:
        """Finish what is being stored and close the database: after the last answer has gone out."""
        for settled in self.closings:
            await settled()
        if "database" in vars(self):
            await asyncio.to_thread(self.database.close)


def name_of(argument: str) -> str:
    """What a model is called: the argument itself where it is a name, the last part of a path."""
    path = Path(argument)
    if path.suffix == ".gguf":
        return path.stem
    return path.resolve().name if path.is_absolute() or argument.startswith((".", "~")) else argument


def _trained() -> Iterator[KnownModel]:
    """Each run under its own name, the newest first, then its stages; a reward model answers nothing."""
    stages: dict[str, list[tuple[str, Path]]] = {}
    for name, path in run_models(runs_folder()):
        if path.name != "reward":
            stages.setdefault(name.rpartition("/")[0], []).append((name, path))
    for run in sorted(stages, key=lambda run: -max(path.stat().st_mtime for _, path in stages[run])):
        yield KnownModel(run, find_model(run))
        yield from (KnownModel(name, path) for name, path in stages[run])


def _pulled(name: str) -> Path | None:
    try:
        return find_pulled(name)
    except UserError:  # damaged: it is not there for a client
        return None
