"""Places are given in order of arrival, none is lost, and the queue has an end."""

import asyncio
import random

import pytest

from cadran.serve.admission import Admission
from cadran.serve.api_error import ApiError


def test_first_come_first_served() -> None:
    async def work() -> list[int]:
        admission, order = Admission(1, 10), []
        await admission.enter()

        async def one(number: int) -> None:
            await admission.enter()
            order.append(number)
            admission.leave()

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (1, 5)
        admission.leave()
        await asyncio.gather(*tasks)
        assert (admission.running, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(work()) == [0, 1, 2, 3, 4]


def test_a_full_queue_turns_away_at_once() -> None:
    async def work() -> None:
        admission = Admission(1, 1)
        await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await admission.enter()
        assert refused.value.kind == "overloaded" and refused.value.retry_after and admission.rejected == 1
        admission.leave()
        await waiting

    asyncio.run(work())


def test_who_leaves_the_queue_loses_nobody_a_place() -> None:
    async def work() -> None:
        draw = random.Random(0)
        admission = Admission(3, 1000)

        async def one() -> None:
            await admission.enter()
            try:
                await asyncio.sleep(draw.random() * 0.002)
            finally:
                admission.leave()

        tasks = [asyncio.create_task(one()) for _ in range(300)]
        for task in draw.sample(tasks, 150):
            await asyncio.sleep(0.0002)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.running, admission.waiting) == (0, 0)
        await asyncio.wait_for(admission.idle(), 60)

    asyncio.run(work())


def test_a_place_given_to_someone_who_is_leaving_goes_to_the_next() -> None:
    async def work() -> None:
        admission = Admission(1, 10)
        await admission.enter()
        first, second = asyncio.create_task(admission.enter()), asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        admission.leave()  # the first has its place now, but has not run
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(second, 60)
        assert admission.running == 1

    asyncio.run(work())


def test_draining_refuses_new_ones_and_serves_those_that_wait() -> None:
    async def work() -> None:
        admission = Admission(1, 10)
        await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        admission.drain()
        with pytest.raises(ApiError) as refused:
            await admission.enter()
        assert refused.value.kind == "draining"
        admission.leave()
        await waiting
        admission.leave()
        await asyncio.wait_for(admission.idle(), 60)

    asyncio.run(work())


def test_who_is_refused_and_leaves_at_the_same_moment_gives_no_place_back() -> None:
    async def work() -> None:
        admission = Admission(1, 10)
        await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        admission.give_up()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert admission.running == 1

    asyncio.run(work())


def test_those_that_still_wait_when_the_grace_is_over_are_refused() -> None:
    async def work() -> None:
        admission = Admission(1, 10)
        await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        admission.drain()
        admission.give_up()
        with pytest.raises(ApiError) as refused:
            await waiting
        assert refused.value.kind == "draining" and admission.waiting == 0
        admission.leave()
        assert admission.running == 0

    asyncio.run(work())


def test_who_comes_after_the_giving_up_is_not_waited_for() -> None:
    """A second signal may come so soon after the first that the draining has not begun."""

    async def work() -> None:
        admission = Admission(2, 10)
        await admission.enter()
        admission.give_up()
        with pytest.raises(ApiError) as refused:
            await admission.enter()
        assert refused.value.kind == "draining"
        await asyncio.wait_for(admission.idle(), 60)

    asyncio.run(work())
