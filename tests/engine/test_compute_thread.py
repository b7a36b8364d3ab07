"""The compute thread with a scheduler made of plain Python: nothing is lost, nothing hangs, nothing is left running."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Generator

import pytest

from cadran.engine.completion import Completion
from cadran.engine.compute_thread import ComputeThread
from cadran.engine.delivery import Delivery, Parcel, Post
from cadran.engine.event import Event
from cadran.engine.request import Produced, Request, Scored
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

TEXT = "the river is calm and nobody fishes in the calm river "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT] * 8, 270)


class Typewriter:
    """A scheduler that continues every prompt with the same text, one token of each answer a step."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.running: dict[int, tuple[Request, dict[int, int]]] = {}
        self.steps = 0
        self.cancelled: list[int] = []
        self.finished: list[tuple[int, int]] = []
        self.broken: Exception | None = None
        self.gate: threading.Semaphore | None = None

    @property
    def idle(self) -> bool:
        return not self.running

    def add(self, request: Request) -> None:
        if len(request.prompt) > 50:
            raise UserError("the prompt needs 51 places and there are 50")
        self.running[request.id] = (request, dict.fromkeys(range(request.answers), 0))

    def cancel(self, id: int) -> None:
        self.running.pop(id, None)
        self.cancelled.append(id)  # the last of it: a test that sees it sees the rest

    def finish(self, id: int, answer: int) -> None:
        self._end(id, answer)
        self.finished.append((id, answer))

    def _end(self, id: int, answer: int) -> None:
        del self.running[id][1][answer]
        if not self.running[id][1]:
            del self.running[id]

    def step(self) -> list[Produced]:
        if self.gate is not None:
            self.gate.acquire()
        if self.broken is not None:
            raise self.broken
        self.steps += 1
        produced = []
        for id, (request, answers) in list(self.running.items()):
            for answer, count in list(answers.items()):
                token = Scored(self.ids[(count + answer) % len(self.ids)])
                answers[answer] += 1
                finish = "length" if count + 1 == request.params.max_tokens else None
                produced.append(Produced(id, answer, (token,), finish, cached=2))
                if finish:
                    self._end(id, answer)
        return produced


class Desk:
    """A compute thread, the schedulers it made, and a way to ask."""

    def __init__(self, tokenizer: Tokenizer, prepare: Callable[[Typewriter], None] = lambda scheduler: None) -> None:
        self.tokenizer = tokenizer
        self.schedulers: list[Typewriter] = []
        self.released = threading.Event()
        schedulers, released, ids = self.schedulers, self.released, tokenizer.encode(TEXT)

        def make() -> Typewriter:
            schedulers.append(Typewriter(ids))
            prepare(schedulers[-1])
            return schedulers[-1]

        self.thread = ComputeThread(make, released.set)

    def ask(self, tokens: int = 12, stop: tuple[str, ...] = (), answers: int = 1, prompt: int = 3) -> Completion:
        params = SamplingParams(max_tokens=tokens)
        request = Request(self.thread.next_id(), (1,) * prompt, params, answers=answers)
        post, thread = Post(), self.thread
        thread.submit(Delivery(request, self.tokenizer, stop, post))
        return Completion(
            post, answers, lambda: thread.cancel(request.id), lambda answer: thread.finish(request.id, answer)
        )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


@pytest.fixture
def desk(tokenizer: Tokenizer) -> Generator[Desk, None, None]:
    desk = Desk(tokenizer)
    yield desk
    desk.thread.close()


def test_events_one_by_one_are_the_whole_text_and_the_last_tells_what_it_took(desk: Desk) -> None:
    events = list(desk.ask())
    ids = desk.tokenizer.encode(TEXT)[:12]
    assert [event.token for event in events] == [*ids, None]
    whole = desk.ask()
    assert whole.text == str(whole) == "".join(event.text for event in events) == desk.tokenizer.decode(ids)
    assert whole.finish == events[-1].finish == "length"
    usage = events[-1].usage
    assert usage is not None and all(event.usage is None for event in events[:-1])
    assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens) == (3, 2, 12)
    assert 0 < usage.first_token_seconds <= usage.seconds


def test_text_read_in_part_and_then_asked_for_is_whole(desk: Desk) -> None:
    answer = desk.ask()
    next(answer)
    assert answer.text == desk.ask().text and answer.text == answer.text


def test_showing_a_completion_does_not_read_it(desk: Desk) -> None:
    answer = desk.ask()
    assert repr(answer) == "<Completion of 1, under way>"
    assert len(list(answer)) == 13 and repr(answer) == "<Completion of 1, read>"


def test_async_reading_gives_what_plain_reading_gives(desk: Desk) -> None:
    async def read(tokens: int) -> list[tuple[str, int | None]]:
        return [(event.text, event.token) async for event in desk.ask(tokens)]

    async def many() -> list[list[tuple[str, int | None]]]:
        return await asyncio.gather(*(read(tokens) for tokens in range(1, 20)))

    for tokens, events in enumerate(asyncio.run(many()), start=1):
        assert events == [(event.text, event.token) for event in desk.ask(tokens)]


def test_a_cancelled_task_takes_its_request_away_before_the_next_step(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(3)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))

    async def read() -> None:
        async for _ in desk.ask(tokens=10_000):
            pass

    async def run() -> None:
        task = asyncio.create_task(read())
        while not desk.schedulers or desk.schedulers[0].steps < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    gate.release()  # the step that was waiting when the task was cancelled
    wait_for(lambda: desk.schedulers[0].cancelled != [])
    # Three, where it had not yet begun to wait for the fourth.
    assert desk.schedulers[0].steps in (3, 4) and desk.schedulers[0].idle
    desk.thread.close()


@pytest.mark.parametrize("leave", ["close", "forget", "break"])
def test_an_answer_nobody_reads_any_more_is_dropped_before_the_next_step(tokenizer: Tokenizer, leave: str) -> None:
    gate = threading.Semaphore(0)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    answer = desk.ask(tokens=10_000)
    other = desk.ask(tokens=10_000) if leave == "break" else None
    gate.release(3)  # not before both are asked: the first could take all three steps alone
    if other is not None:
        for _ in other:
            break
        del other
    next(answer)
    if leave == "close":
        answer.close()
        assert list(answer) == [] and answer.finish is None
    else:
        del answer
        gc.collect()
    before = desk.schedulers[0].steps
    gate.release(2)
    wait_for(lambda: len(desk.schedulers[0].cancelled) == 1 + (leave == "break"))
    assert desk.schedulers[0].idle and desk.schedulers[0].steps <= max(before, 3) + 1
    desk.thread.close()


def test_a_reader_in_another_thread_wakes_when_its_answer_is_closed(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(0)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    answer = desk.ask()
    reader = threading.Thread(target=lambda: list(answer))
    reader.start()
    answer.close()
    reader.join(timeout=60)
    assert not reader.is_alive()
    gate.release(2)
    desk.thread.close()


def test_an_answer_that_another_thread_closes_meanwhile_ends_for_its_reader() -> None:
    class ClosedWhenSeen(list[Event]):
        """Events of which the answer is closed when its reader has looked whether there are any."""

        def __bool__(self) -> bool:
            answer.close()
            return True

    class ClosedWhenNoted(list[str]):
        """A text of which the answer is closed when an event is added to it."""

        def append(self, text: str) -> None:
            super().append(text)
            answer.close()

    answer = Completion(Post(), 1, lambda: None, lambda index: None)
    answer._waiting = ClosedWhenSeen([Event("x", 7, "length")])
    assert len(list(answer)) <= 1
    post = Post()
    answer = Completion(post, 2, lambda: None, lambda index: None)
    answer._texts[0] = ClosedWhenNoted()
    post.put(Parcel([Event("x", 7, "length")]))
    post.put(Parcel([Event("y", 7, "length", index=1)]))
    assert [event.text for event in answer] == ["x"]


def test_a_stop_string_ends_its_own_answer_alone(desk: Desk) -> None:
    free = desk.ask(tokens=30, answers=2).texts
    answer = desk.ask(tokens=30, stop=("calm and",), answers=2)
    events = list(answer)
    assert answer.texts[0] == free[0][: free[0].index("calm and")] == "the river is "
    last = [event for event in events if event.finish]
    assert {event.stop for event in last if event.finish == "stop"} == {"calm and"}
    assert answer.finishes[0] == "stop" and (events[-1].usage is not None)
    # The text is told before the scheduler is.
    wait_for(lambda: desk.schedulers[0].idle and desk.schedulers[0].finished != [])


def test_one_answer_that_nobody_wants_ends_and_the_others_are_whole(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(2)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    try:
        answer = desk.ask(tokens=20, answers=3)
        seen = [next(answer) for _ in range(4)]
        answer.end(1)
        answer.end(1)  # twice is once
        gate.release(100)
        seen += list(answer)
        assert answer.finishes == ["length", "cancelled", "length"]
        counts = [sum(event.index == index and event.token is not None for event in seen) for index in range(3)]
        assert counts[0] == counts[2] == 20 and 1 <= counts[1] <= 4
        assert desk.schedulers[0].finished == [(0, 1)] and desk.schedulers[0].idle
        assert seen[-1].usage is not None and seen[-1].usage.generated_tokens == sum(counts)
        answer.end(0)  # too late, and no matter
        gate.release(1_000_000)
        last = desk.ask(tokens=1_000_000, answers=2)
        next(last)
        last.end(0)
        last.end(1)
        assert last.finishes == ["cancelled", "cancelled"] and desk.ask().finish == "length"
    finally:
        gate.release(1_000_000)
        desk.thread.close()


def test_a_request_that_is_refused_says_why_and_the_others_go_on(desk: Desk) -> None:
    with pytest.raises(UserError, match="51 places and there are 50"):
        desk.ask(prompt=51).read()
    with pytest.raises(UserError, match="51 places"):
        asyncio.run(desk.ask(prompt=51).__anext__())
    assert desk.ask().finish == "length"


def test_a_failure_reaches_every_reader_with_what_was_said_and_the_next_request_is_served(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(0)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    answers = [desk.ask(tokens=10_000) for _ in range(3)]
    job = desk.thread.run(lambda scheduler: iter_forever())
    gate.release(4)
    wait_for(lambda: desk.schedulers != [] and desk.schedulers[0].steps == 4)
    desk.schedulers[0].broken = ArithmeticError("overheated")
    gate.release(1000)
    for answer in answers:
        events = []
        with pytest.raises(RuntimeError, match="overheated") as caught:
            for event in answer:
                events.append(event)
        assert isinstance(caught.value.__cause__, ArithmeticError)
        assert events[-1].finish == "error" and "overheated" in (events[-1].message or "") and len(events) > 1
        assert list(answer) == [], "it is raised once"
    with pytest.raises(ArithmeticError):
        job.result(timeout=60)
    assert desk.ask(tokens=3).finish == "length" and len(desk.schedulers) == 2
    desk.thread.close()


def iter_forever() -> Generator[None, None, None]:
    while True:
        yield


def test_closing_ends_what_is_under_way_and_refuses_what_comes_later(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(2)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    answer = desk.ask(tokens=1_000_000)
    next(answer)
    closing = threading.Thread(target=desk.thread.close)
    closing.start()

    def closed() -> bool:
        gate.release()  # a step at a time: nobody knows before which of them it is told to close
        return not closing.is_alive()

    wait_for(closed)
    with pytest.raises(UserError, match="closed"):
        answer.read()
    assert desk.released.is_set()
    with pytest.raises(UserError, match="closed"):
        desk.ask()
    desk.thread.close()  # twice is once


def test_nobody_holding_it_ends_the_thread_but_an_unread_answer_holds_it(tokenizer: Tokenizer) -> None:
    others = set(threading.enumerate())
    desk = Desk(tokenizer)
    released = desk.released
    answer = desk.ask(tokens=200)
    (thread,) = (thread for thread in set(threading.enumerate()) - others if thread.name == "cadran-engine")
    del desk
    gc.collect()
    assert len(list(answer)) == 201
    assert not released.is_set()
    del answer
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive() and released.is_set()


def test_an_idle_thread_takes_no_processor_time(desk: Desk) -> None:
    others = set(threading.enumerate())
    desk.ask().read()
    (thread,) = (thread for thread in set(threading.enumerate()) - others if thread.name == "cadran-engine")
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)  # its own: what else this process does is not its doing
    before = time.clock_gettime(clock)
    time.sleep(0.3)
    assert time.clock_gettime(clock) - before < 0.1


def test_other_work_is_done_between_the_steps_of_requests(tokenizer: Tokenizer) -> None:
    gate = threading.Semaphore(0)
    desk = Desk(tokenizer, lambda scheduler: setattr(scheduler, "gate", gate))
    seen: list[int] = []

    def work(scheduler: Typewriter) -> Generator[None, None, str]:
        for _ in range(5):
            seen.append(scheduler.steps)
            yield
        return "done"

    answer = desk.ask(tokens=20)
    done = desk.thread.run(work)
    gate.release(20)  # not before the work is asked for: the answer could be over by then
    assert done.result(timeout=60) == "done"
    assert len(set(seen)) == 5, "a step lies between any two pieces"
    assert answer.finish == "length"
    desk.thread.close()


def test_many_threads_get_each_their_own_text(desk: Desk) -> None:
    results: dict[int, str] = {}

    def ask(tokens: int) -> None:
        results[tokens] = desk.ask(tokens).text

    threads = [threading.Thread(target=ask, args=(tokens,)) for tokens in range(1, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    ids = desk.tokenizer.encode(TEXT)
    for tokens in range(1, 40):
        assert results[tokens] == desk.tokenizer.decode((ids * 40)[:tokens])
