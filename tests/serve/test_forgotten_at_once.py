"""A model that is kept for no time at all is opened once for those who ask at once, and closed after them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live import LiveServer
from opened import shelf_of
from tiny import tiny_model

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.005)


def test_it_is_opened_once_for_all_who_wait_and_closed_after_the_last(tmp_path: Path) -> None:
    log: list[str] = []

    async def work() -> None:
        known = KnownModel("a", tmp_path)
        shelf = shelf_of([known], log, keep_alive=0)
        served = await asyncio.gather(*(shelf.take(known) for _ in range(5)))
        assert log == ["open a"]
        for one in served:
            shelf.give_back(one)
        await until(lambda: not shelf.served)
        await shelf.end()

    asyncio.run(work())
    assert log == ["open a", "close a"]


def test_it_is_closed_when_all_have_left_who_waited(tmp_path: Path) -> None:
    log: list[str] = []

    async def work() -> None:
        known = KnownModel("a", tmp_path)
        shelf = shelf_of([known], log, keep_alive=0)
        taking = asyncio.create_task(shelf.take(known))
        await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await until(lambda: log == ["open a", "close a"])
        await shelf.end()

    asyncio.run(work())


def test_it_does_not_make_room_before_it_was_used(tmp_path: Path) -> None:
    log: list[str] = []

    async def work() -> None:
        models = [KnownModel(name, tiny_model(tmp_path / name, layers=1)) for name in "ab"]
        shelf = shelf_of(models, log, memory=models[0].header.bytes)
        async with shelf.lend(models[0]):
            pass
        served = shelf.served[0]
        shelf._wanted["a", None] += 1  # as between the opening and the taking
        assert shelf._awaited(served)
        with pytest.raises(Exception, match="no memory for b"):
            await shelf.take(models[1])
        del shelf._wanted["a", None]
        await shelf.take(models[1])
        await shelf.end()

    asyncio.run(work())
    assert log == ["open a", "close a", "open b", "close b"]


def test_each_request_opens_it_once(tiny: Path) -> None:
    opened: list[str] = []

    def open(known: KnownModel) -> Engine:
        opened.append(known.name)
        return Engine.load(known.path)

    live = LiveServer(open, models=[str(tiny)], keep_alive=0.0)
    try:
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 2}
        for number in range(1, 4):
            httpx.post(f"{live.url}/v1/completions", json=asked).raise_for_status()
            assert len(opened) <= number
        asyncio.run(until(lambda: not live.call(lambda: live.service.shelf.served)))
    finally:
        live.close()
