"""Models are opened when somebody asks, shared, closed when nobody does or memory is short."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from opened import Opened, shelf_of
from tiny import tiny_model

from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.known_model import KnownModel
from cadran.serve.shelf import Shelf, with_aliases


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[KnownModel]:
    folder = tmp_path_factory.mktemp("shelf")
    return [KnownModel(name, tiny_model(folder / name, seed=seed)) for seed, name in enumerate("abc")]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_many_who_ask_at_once_wait_for_one_opening(models: list[KnownModel]) -> None:
    log: list[str] = []

    async def work() -> None:
        shelf = shelf_of(models, log)
        served = await asyncio.gather(*(shelf.take(models[0]) for _ in range(10)))
        assert len({id(one) for one in served}) == 1 and served[0].users == 10
        for one in served:
            shelf.give_back(one)
        await shelf.end()

    run(work)
    assert log == ["open a", "close a"]


def test_who_leaves_while_a_model_opens_does_not_stop_it_for_the_others(models: list[KnownModel]) -> None:
    log: list[str] = []

    async def work() -> None:
        shelf = shelf_of(models, log)
        first, second = asyncio.create_task(shelf.take(models[0])), asyncio.create_task(shelf.take(models[0]))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).users == 1
        assert log == ["open a"]

    run(work)


def test_the_one_not_used_for_longest_makes_room(models: list[KnownModel]) -> None:
    log: list[str] = []

    async def work() -> None:
        room = 2 * models[0].header.bytes
        shelf = shelf_of(models, log, memory=room)
        for known in (models[0], models[1], models[0]):
            async with shelf.lend(known):
                pass
        async with shelf.lend(models[2]):
            assert [served.known.name for served in shelf.served] == ["a", "c"]

    run(work)
    assert log == ["open a", "open b", "close b", "open c"]


def test_a_model_in_use_is_never_closed_for_another(models: list[KnownModel]) -> None:
    async def work() -> None:
        shelf = shelf_of(models, [], memory=models[0].header.bytes)
        async with shelf.lend(models[0]):
            with pytest.raises(ApiError, match="no memory") as refused:
                await shelf.take(models[1])
            assert refused.value.kind == "overloaded" and refused.value.retry_after
        async with shelf.lend(models[1]) as served:
            assert served.known.name == "b"

    run(work)


def test_a_model_that_never_fits_says_both_sizes(models: list[KnownModel]) -> None:
    async def work() -> None:
        with pytest.raises(ApiError, match="--memory"):
            await shelf_of(models, [], memory=10).take(models[0])

    run(work)


def test_an_unused_model_is_closed_after_its_time(models: list[KnownModel]) -> None:
    log: list[str] = []

    async def work() -> None:
        shelf = shelf_of(models, log, keep_alive=0.05)
        async with shelf.lend(models[0]):
            await asyncio.sleep(0.15)
            assert log == ["open a"]
        async with asyncio.timeout(60):
            while log != ["open a", "close a"]:
                await asyncio.sleep(0.02)
        assert shelf.served == []

    run(work)


def test_a_model_that_cannot_be_opened_is_refused_and_may_be_asked_again(models: list[KnownModel]) -> None:
    attempts: list[str] = []

    def open(known: KnownModel) -> Engine:
        attempts.append(known.name)
        raise UserError("it is damaged; pull it again")

    async def work() -> None:
        shelf = Shelf(lambda: list(models), open)
        for _ in range(2):
            with pytest.raises(ApiError, match="it is damaged; pull it again"):
                await shelf.take(models[0])

    run(work)
    assert attempts == ["a", "a"]


def test_names_aliases_and_tags_mean_a_model(models: list[KnownModel]) -> None:
    named = with_aliases(models, {"meta/llama": "b"})
    shelf = shelf_of(named, [])
    assert [shelf.resolve(name).name for name in ("a", "a:latest", "meta/llama", "meta/llama:latest", "")] == list(
        "aabba"
    )
    with pytest.raises(ApiError, match="those there are: a, b, c"):
        shelf.resolve("d")
    with pytest.raises(UserError, match="alias"):
        with_aliases(models, {"x": "none"})


def test_a_model_that_arrives_later_is_found(models: list[KnownModel], tmp_path: Path) -> None:
    there = models[:1]
    shelf = Shelf(lambda: list(there), lambda known: Opened([], known.name))  # type: ignore[return-value,arg-type]
    there.append(models[1])
    assert shelf.resolve("b").name == "b"


def test_a_model_that_has_gone_does_not_hide_the_others(models: list[KnownModel]) -> None:
    there = True

    def find() -> list[KnownModel]:
        if not there:
            raise UserError("there is no model in /gone; name another one")
        return models

    async def work() -> None:
        nonlocal there
        shelf = Shelf(find, lambda known: Opened([], known.name))  # type: ignore[arg-type, return-value]
        there = False
        assert shelf.resolve("b").name == "b"
        with pytest.raises(ApiError, match="there is no model 'nobody' here; those there are: a, b, c"):
            shelf.resolve("nobody")

    run(work)


def test_looking_anew_keeps_what_was_read_of_the_models(models: list[KnownModel]) -> None:
    shelf = shelf_of([KnownModel(model.name, model.path) for model in models], [])
    header = shelf.resolve("a").header
    shelf.refresh()
    assert shelf.resolve("a").header is header
