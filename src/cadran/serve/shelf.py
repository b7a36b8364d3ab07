"""The models of a server: known by name, opened when somebody asks, closed when nobody does or memory is short.

Everything here runs on the event loop, so nothing is locked; only opening and closing an engine goes to a thread.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from time import monotonic

from cadran.engine.adapters import NoSharingError
from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.known_model import KnownModel
from cadran.serve.served_model import ServedModel

log = logging.getLogger(__name__)

Open = Callable[[KnownModel], Engine]
Find = Callable[[], list[KnownModel]]
"""The models that are there now; asked again when a name is unknown, so that a model pulled meanwhile is found."""


class Shelf:
    """Lends open models.

    Args:
        find: which models there are.
        open: opens one; called in a thread.
        memory: bytes that open models may take together; None for no limit.
        keep_alive: seconds that an unused model stays open; None for ever.
    """

    def __init__(self, find: Find, open: Open, *, memory: int | None = None, keep_alive: float | None = None) -> None:
        self._find, self._open, self._memory, self.keep_alive = find, open, memory, keep_alive
        self._known: dict[str, KnownModel] = {}
        self._served: dict[str, ServedModel] = {}
        self._dropped: dict[int, ServedModel] = {}  # by id(); open until their last request is over
        self._opening: dict[tuple[str, int | None], asyncio.Task[ServedModel]] = {}
        self._wanted: Counter[tuple[str, int | None]] = Counter()  # how many wait for it
        self._sweeper: asyncio.Task[None] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Look anew which models there are."""
        # Those that are as before stay, with what was read of their files.
        before = self._known
        self._known = {
            model.name: before[model.name] if before.get(model.name) == model else model for model in self._find()
        }
        for served in self.served:
            if self._gone(served.known):  # with its model
                self._set_aside(served)

    @property
    def known(self) -> list[KnownModel]:
        """All models, in the order in which they were named."""
        return list(self._known.values())

    @property
    def adapters(self) -> dict[int, str]:
        """The names of the adapters, ``MODEL:ADAPTER``, by their numbers."""
        return {known.number: known.name for known in self._known.values() if known.number is not None}

    @property
    def served(self) -> list[ServedModel]:
        """Those that are open."""
        return list(self._served.values())

    @property
    def loading(self) -> bool:
        """Whether one is being opened."""
        return bool(self._opening)

    def resolve(self, name: str, adapter: str | None = None) -> KnownModel:
        """The model that a client means: a name or an alias, with or without ``:latest``; "" for the only or first.

        Args:
            name: as the client wrote it.
            adapter: a LoRA adapter over it, by its own name or as ``MODEL:ADAPTER``, as the list names it.

        Raises:
            ApiError: there is none; the message lists those there are.
        """
        for attempt in range(2):
            if attempt:
                with suppress(UserError):  # a model that was named at the start has gone; the others have not
                    self.refresh()
            if (found := self.adapter(name, adapter) if adapter else self._look(name)) is not None:
                return found
        wanted = ":".join(filter(None, (name, adapter)))
        names = ", ".join(self._known) or "none; pull one with cadran pull smollm2"
        raise ApiError(
            "not_found",
            f"there is no model {wanted!r} here; those there are: {names}",
            param="model",
            code="model_not_found",
        )

    def adapter(self, model: str, name: str) -> KnownModel | None:
        """The adapter that a client means, None where there is none.

        Args:
            model: that it is to lie over; "" for the first model, or the first one with an adapter of that name.
            name: its own, or ``MODEL:ADAPTER``.
        """
        over, _, own = name.rpartition(":")
        bases = [self._named(base) for base in (model, over) if base]
        found = [known for known in self._known.values() if known.adapter is not None and known.adapter_name == own]
        for base in bases or [self._named("")]:
            here = [known for known in found if base is not None and known.base == base.name]
            found = here if bases else here or found
        return next(iter(found), None)

    def names(self, name: str) -> bool:
        """Whether a model or an adapter has this very name, or an alias that is the same."""
        return any(name in (known.name, *known.aliases) for known in self._known.values())

    def _look(self, name: str) -> KnownModel | None:
        # vLLM's clients write an adapter's own name for the model.
        return self._named(name) or self.adapter("", name.removesuffix(":latest"))

    def _named(self, name: str) -> KnownModel | None:
        if not name:
            return next(iter(self._known.values()), None)
        for candidate in (name, name.removesuffix(":latest")):
            if candidate in self._known:
                return self._known[candidate]
            for model in self._known.values():
                if candidate in model.aliases:
                    return model
        return None

    @asynccontextmanager
    async def lend(self, known: KnownModel) -> AsyncIterator[ServedModel]:
        """An open model, which stays open until it is given back.

        Raises:
            ApiError: it cannot be opened, or there is no memory for it while the others are in use.
        """
        served = await self.take(known)
        try:
            yield served
        finally:
            self.give_back(served)

    async def take(self, known: KnownModel) -> ServedModel:
        """As ``lend``; every ``take`` wants its ``give_back``."""
        if (served := self._there(known)) is None:
            self._wanted[key := _key(known)] += 1
            try:
                served = await self._wait(known)
            except (Exception, asyncio.CancelledError):
                self._sweep_soon()  # nobody may be left who wants it
                raise
            finally:
                self._wanted[key] -= 1
                if not self._wanted[key]:
                    del self._wanted[key]
        served.users += 1
        return served

    async def _wait(self, known: KnownModel) -> ServedModel:
        key = _key(known)
        while (served := self._there(known)) is None:
            task = self._opening.get(key)
            if task is None:
                task = self._opening[key] = asyncio.create_task(self._opened(known))
                task.add_done_callback(lambda _: self._opening.pop(key, None))
            # Who goes away does not stop the opening for those who wait with him.
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if task.cancelled() and current is not None and not current.cancelling():  # the server stops
                    raise ApiError("draining", "the server is stopping; try again later", retry_after=5) from None
                raise
        return served

    def _there(self, known: KnownModel) -> ServedModel | None:
        """The model if it is open; ``ApiError`` for an adapter that was dropped, whose name another may have by now."""
        if self._gone(known):
            raise ApiError(
                "not_found",
                f"the adapter {known.name} was unloaded meanwhile; load it again",
                param="model",
                code="model_not_found",
            )
        return self._served.get(known.name)

    def give_back(self, served: ServedModel) -> None:
        """A request is done with a model."""
        served.users -= 1
        served.last_used = monotonic()
        if served.expires is not None:
            self._sweep_soon()

    def keep(self, served: ServedModel, seconds: float | None) -> None:
        """Let a model stay open for so long after its last request; None for ever. One that was dropped goes anyway."""
        if id(served) not in self._dropped:
            served.keep_alive = seconds
        self._sweep_soon()

    async def _opened(self, known: KnownModel) -> ServedModel:
        begun = monotonic()
        if (served := await self._upon_base(known)) is not None:
            return self._shelved(served, begun)
        await self._make_room(known)
        try:
            engine = await asyncio.to_thread(self._open, known)
        except UserError as error:
            raise ApiError("unsupported", f"the model {known.name} cannot be opened: {error}", param="model") from error
        return self._shelved(ServedModel(known, engine, keep_alive=self.keep_alive), begun)

    def _shelved(self, served: ServedModel, begun: float) -> ServedModel:
        served.loading_seconds = monotonic() - begun
        log.info("opened", extra={"model": served.known.name, "seconds": round(served.loading_seconds, 3)})
        if self._gone(served.known):  # meanwhile; another may be open under its name
            self._set_aside(served)
        else:
            self._served[served.known.name] = served
        self._sweep_soon()
        return served

    async def _upon_base(self, known: KnownModel) -> ServedModel | None:
        """An adapter upon the open model of its base, where the engine can share it; the base then stays open."""
        bases = [model for model in self._known.values() if model.path == known.path and model.adapter is None]
        if known.adapter is None or not bases:
            return None
        base = await self.take(bases[0])
        try:
            engine = await asyncio.to_thread(base.engine.with_adapter, known.adapter)
        except NoSharingError:
            self.give_back(base)
            return None
        except UserError as error:
            self.give_back(base)
            raise ApiError("unsupported", f"the model {known.name} cannot be opened: {error}", param="model") from error
        except BaseException:
            self.give_back(base)
            raise
        return ServedModel(known, engine, keep_alive=self.keep_alive, base=base)

    async def _make_room(self, known: KnownModel) -> None:
        """Close those that were not used for longest until the new one fits."""
        if self._memory is None:
            return
        try:
            wanted = known.header.bytes
        except UserError as error:
            raise ApiError("unsupported", f"the model {known.name} cannot be opened: {error}", param="model") from error
        if wanted > self._memory:
            raise ApiError(
                "unsupported",
                f"the model {known.name} takes {wanted / 1e9:.2f} GB and {self._memory / 1e9:.2f} may be used; "
                "start the server with a higher --memory",
                param="model",
            )
        while sum(served.known.header.bytes for served in self._open_ones() if not served.base) + wanted > self._memory:
            idle = [served for served in self._served.values() if not served.users and not self._awaited(served)]
            if not idle:
                raise ApiError(
                    "overloaded",
                    f"there is no memory for {known.name} while the open models are in use; try again later",
                    retry_after=5,
                )
            await self.close(min(idle, key=lambda served: served.last_used))

    async def close(self, served: ServedModel) -> None:
        """Close a model; what is under way with it ends with an error."""
        if self._served.get(served.known.name) is served:
            del self._served[served.known.name]
        elif self._dropped.pop(id(served), None) is None:
            return
        await asyncio.to_thread(served.engine.close)
        if served.base is not None:
            self.give_back(served.base)
        log.info("closed", extra={"model": served.known.name})

    def add(self, known: KnownModel) -> None:
        """Know an adapter that was not there before; ``find`` finds it from now on, too."""
        self._known[known.name] = known

    async def drop(self, known: KnownModel) -> None:
        """Forget an adapter that ``find`` finds no more; may be called again.

        Requests under way with it go on, and it is closed after the last of them; those that wait are refused.
        """
        if self._gone(known):
            return
        del self._known[known.name]
        if (served := self._served.get(known.name)) is not None:
            self._set_aside(served)
            if not served.users:
                await self.close(served)

    def _set_aside(self, served: ServedModel) -> None:
        if self._served.get(served.known.name) is served:
            del self._served[served.known.name]
        self._dropped[id(served)], served.keep_alive = served, 0
        self._sweep_soon()

    def _gone(self, known: KnownModel) -> bool:
        """Whether it is an adapter that was dropped."""
        current = self._known.get(known.name)
        return known.number is not None and (current is None or current.number != known.number)

    def _open_ones(self) -> list[ServedModel]:
        return [*self._dropped.values(), *self._served.values()]

    def _awaited(self, served: ServedModel) -> bool:
        """Whether somebody waited for it and has not come to take it: it is about to be in use."""
        return self._wanted[_key(served.known)] > 0

    def _expires(self, served: ServedModel) -> float | None:
        return None if self._awaited(served) else served.expires

    def _sweep_soon(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Close what has expired, as long as something will."""
        while times := [end for served in self._open_ones() if (end := self._expires(served)) is not None]:
            # No longer: another model may meanwhile be given less time than the one that is waited for.
            await asyncio.sleep(min(max(0.0, min(times) - monotonic()), 0.5))
            for served in self._open_ones():
                if (end := self._expires(served)) is not None and end <= monotonic():
                    await self.close(served)

    async def end(self) -> None:
        """Close everything."""
        for task in [*self._opening.values(), *([self._sweeper] if self._sweeper else [])]:
            task.cancel()
        for served in self._open_ones():
            await self.close(served)


def _key(known: KnownModel) -> tuple[str, int | None]:
    return known.name, known.number


def with_aliases(models: list[KnownModel], aliases: dict[str, str]) -> list[KnownModel]:
    """The models with their further names.

    Raises:
        UserError: an alias is for a model that is not there.
    """
    by_name = {model.name: model for model in models}
    for alias, name in aliases.items():
        if name not in by_name:
            raise UserError(f"the alias {alias} is for {name}, which is not served; those served: {', '.join(by_name)}")
        by_name[name] = replace(by_name[name], aliases=(*by_name[name].aliases, alias))
    return list(by_name.values())
