"""What is kept of predictions, for how long, and for whom. Over a stand-in for the service, and over real keys."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import replicate
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer
from replicate.exceptions import ReplicateError

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.events import Admitted, Event, Finished, Spoke, Used
from cadran.serve.replicate.prediction import Prediction
from cadran.serve.replicate.predictions import KEPT_SECONDS, Predictions
from cadran.serve.settings import ServeSettings
from cadran.serve.state.api_key import add_key


class Exchanges:
    """Stands in for the service: answers the prompt in one piece, once ``go`` is set."""

    def __init__(self) -> None:
        self.settings = ServeSettings()
        self.endings: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.open = 0

    async def begin(self, request: GenerateRequest) -> "Exchanges":
        if request.model == "refused":
            raise ApiError("overloaded", "no")
        if request.model == "defect":
            raise ZeroDivisionError
        self.open += 1
        self._text = str(request.prompt)
        return self

    async def __aenter__(self) -> "Exchanges":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open -= 1

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events(self._text)

    async def _events(self, text: str) -> AsyncIterator[Event]:
        yield Admitted(1)
        await self.go.wait()
        yield Spoke(0, text)
        yield Finished(0, "eos")
        yield Used(1, 0, 1)


class Store:
    """Predictions with a clock that is set by hand."""

    def __init__(self, **bounds: int) -> None:
        self.now = 0.0
        self.service = Exchanges()
        self.predictions = Predictions(self.service, clock=lambda: self.now, **bounds)  # type: ignore[arg-type]

    def start(self, text: str = "x", owner: object = None, model: str = "m") -> Prediction:
        return self.predictions.start(
            GenerateRequest(model=model, prompt=text), model="o/m", version="hidden", input={"prompt": text},
            owner=owner,
        )  # fmt: skip

    async def done(self, text: str = "x", owner: object = None, model: str = "m") -> Prediction:
        made = self.start(text, owner, model)
        await made.ended.wait()
        await asyncio.sleep(0)
        return made

    def has(self, prediction: Prediction, owner: object = None) -> bool:
        try:
            return self.predictions.get(prediction.id, owner) is prediction
        except ApiError as error:
            assert error.kind == "not_found"
            return False


def test_predictions_are_kept_for_an_hour_after_their_end() -> None:
    async def work() -> None:
        store = Store()
        first = await store.done()
        store.service.go.clear()
        running = store.start()
        await running.begun.wait()
        store.now = KEPT_SECONDS
        assert store.has(first)
        store.now += 1
        assert not store.has(first) and store.has(running)
        store.service.go.set()
        await running.ended.wait()
        store.now += KEPT_SECONDS
        assert store.has(running)

    asyncio.run(work())


def test_nobody_sees_what_belongs_to_another() -> None:
    async def work() -> None:
        store = Store()
        mine, yours = await store.done(owner="me"), await store.done(owner="you")
        assert store.has(mine, "me") and not store.has(mine, "you") and not store.has(mine, None)
        assert store.predictions.page("me")[0] == [mine] and store.predictions.page("you")[0] == [yours]

    asyncio.run(work())


def test_the_oldest_of_whoever_has_most_goes_first() -> None:
    async def work() -> None:
        store = Store(most=4)
        others = [await store.done(owner="other")]
        own = [await store.done(owner="me") for _ in range(5)]
        assert [store.has(prediction, "me") for prediction in own] == [False, False, True, True, True]
        assert store.has(others[0], "other")

    asyncio.run(work())


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 2)), max_size=12))
def test_memory_is_bounded_and_the_latest_is_kept(made: list[tuple[int, int]]) -> None:
    async def work() -> None:
        store = Store(most=5, most_bytes=100_000)
        kept: list[Prediction] = []
        for size, owner in made:
            latest = await store.done("x" * size, owner)
            kept.append(latest)
            present = [prediction for prediction in kept if store.has(prediction, prediction.owner)]
            assert len(present) <= 5 and sum(prediction.bytes for prediction in present) <= 100_000
            assert sum(len(store.predictions.page(owner)[0]) for owner in range(3)) == len(present)

    asyncio.run(work())


def test_those_under_way_are_bounded_too() -> None:
    async def work() -> None:
        store = Store(most_bytes=30_000)
        store.service.go.clear()
        running = store.start("x" * 10_000)
        with pytest.raises(ApiError) as caught:
            store.start("x" * 20_000)
        assert caught.value.kind == "overloaded"
        assert store.has(running)
        await store.predictions.cancel(running)
        store.start("x" * 20_000)
        await store.predictions.end()

    asyncio.run(work())


def test_what_was_refused_says_why_and_a_defect_says_nothing_of_itself() -> None:
    async def work() -> None:
        store = Store()
        refused = await store.done(model="refused")
        assert refused.refused is not None and refused.refused.kind == "overloaded"
        defect = await store.done(model="defect")
        assert defect.refused is not None and defect.refused.kind == "internal"
        assert "Zero" not in defect.refused.message
        store.predictions.forget(refused)
        assert not store.has(refused)

    asyncio.run(work())


def test_cancelling_gives_the_place_back_before_it_returns() -> None:
    async def work() -> None:
        store = Store()
        store.service.go.clear()
        running, queued = store.start(), store.start()
        await running.begun.wait()
        assert store.service.open == 2
        await store.predictions.cancel(running)
        assert (running.status, store.service.open) == ("canceled", 1)
        await store.predictions.cancel(queued)
        assert store.service.open == 0
        await store.predictions.cancel(running)

    asyncio.run(work())


def test_the_end_of_the_service_fails_what_is_under_way() -> None:
    async def work() -> None:
        store = Store()
        store.service.go.clear()
        running = store.start()
        await running.begun.wait()
        waiting = store.start()
        for end in store.service.endings:
            await end()
        assert running.status == waiting.status == "failed" and store.service.open == 0
        assert waiting.refused is not None and waiting.refused.kind == "draining"

    asyncio.run(work())


@given(st.integers(0, 250))
def test_pages_go_through_all_and_back(number: int) -> None:
    async def work() -> None:
        store = Store()
        made = [await store.done() for _ in range(number)][::-1]
        page, older, newer = store.predictions.page(None)
        seen, cursors = list(page), []
        assert newer is None
        while older is not None:
            cursors.append(older)
            page, older, newer = store.predictions.page(None, older)
            seen += page
            assert newer is not None and 0 < len(page) <= 100
        assert seen == made
        while newer is not None:
            page, _, newer = store.predictions.page(None, newer)
        assert page == made[:100] or len(made) > 100

    asyncio.run(work())


@pytest.mark.parametrize("cursor", ["", "x", "<", "<-1", ">1e3", "<" + "9" * 40, "<٣x"])
def test_a_cursor_of_nobody_is_refused(cursor: str) -> None:
    async def work() -> None:
        with pytest.raises(ApiError):
            Store().predictions.page(None, cursor)

    asyncio.run(work())


def test_each_key_has_its_own_predictions(tiny: Path, tmp_path: Path) -> None:
    live = LiveServer(models=[str(tiny)], database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        with live.service.database.session() as session:
            keys = [add_key(session, name) for name in ("ann", "bob")]
        ann, bob = (replicate.Client(api_token=key, base_url=live.url) for key in keys)
        made = ann.models.predictions.create("cadran/tiny", {"prompt": "x", "max_tokens": 2}, wait=30)
        assert made.status == "succeeded" and ann.accounts.current().username == "ann"
        assert [prediction.id for prediction in ann.predictions.list()] == [made.id]
        assert bob.predictions.list().results == []
        for attempt in (bob.predictions.get, bob.predictions.cancel):
            with pytest.raises(ReplicateError, match="404"):
                attempt(made.id)
        with pytest.raises(ReplicateError, match="401"):
            replicate.Client(api_token="wrong", base_url=live.url).predictions.list()
    finally:
        live.close()
