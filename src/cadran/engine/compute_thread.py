"""The one thread that owns a scheduler and its runner: requests reach it through an inbox, nothing is locked.

It starts with the first request, sleeps in its inbox when nothing is under way, and ends when it is closed, when nobody
holds it any more, or with the interpreter. What fails in it reaches every waiting reader; none waits for ever.
"""

import atexit
import itertools
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from cadran.engine.delivery import Delivery
from cadran.engine.request import Produced, Request
from cadran.errors import UserError


class EngineClosedError(UserError):
    """The engine was closed before the answer had come to its end."""


T = TypeVar("T")
S = TypeVar("S", bound="Steps")


class Steps(Protocol):
    """What is asked of a scheduler; see ``scheduler.Scheduler``."""

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        ...

    def add(self, request: Request) -> None:
        """Take a request; ``UserError`` when it can never fit."""
        ...

    def cancel(self, id: int) -> None:
        """Drop a request."""
        ...

    def finish(self, id: int, answer: int) -> None:
        """End one answer early."""
        ...

    def step(self) -> list[Produced]:
        """One forward pass."""
        ...


Job = Callable[[S], Generator[None, None, T]]
"""Other work with the runner, in pieces between steps; each ``yield`` lets the requests go on."""


class ComputeThread(Generic[S]):
    """The handle of the thread; any thread may call it.

    Args:
        make: makes the scheduler, on the thread itself, and a new one after a failure.
        release: gives back what the thread used, when it ends.
    """

    def __init__(self, make: Callable[[], S], release: Callable[[], None]) -> None:
        self._loop = _Loop(make, release)
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        # The thread knows the loop and not this handle, so that a handle nobody holds ends it.
        self._finalizer = weakref.finalize(self, self._loop.stop)

    @property
    def scheduler(self) -> S | None:
        """What the thread works with, to look at its figures only; None before the first request."""
        return self._loop.current

    def next_id(self) -> int:
        """An id for a request."""
        return next(self._ids)

    def submit(self, delivery: Delivery) -> None:
        """Begin a request; whatever becomes of it reaches the reader of the delivery.

        Raises:
            EngineClosedError: the thread was closed.
        """
        self._send(lambda loop: loop.begin(delivery))

    def cancel(self, id: int) -> None:
        """Drop a request before the next step. May be called from a finalizer."""
        self._loop.inbox.put(lambda loop: loop.cancel(id))

    def finish(self, id: int, answer: int) -> None:
        """End one answer of a request before the next step."""
        self._loop.inbox.put(lambda loop: loop.finish(id, answer))

    def run(self, job: "Job[S, T]") -> "Future[T]":
        """Do other work with the scheduler's runner, in between its steps.

        Raises:
            EngineClosedError: the thread was closed.
        """
        future: Future[T] = Future()
        self._send(lambda loop: loop.take(job, future))
        return future

    def _send(self, message: "Callable[[_Loop[S]], None]") -> None:
        with self._lock:
            if self._closed:
                raise EngineClosedError("this engine is closed; load the model again")
            self._loop.start()
            self._loop.inbox.put(message)

    def close(self) -> None:
        """End it: what is under way ends with an error. Returns when the thread is gone."""
        with self._lock:
            self._closed = True
            self._finalizer()
        self._loop.join()


class _Loop(Generic[S]):
    """What the thread knows."""

    def __init__(self, make: Callable[[], S], release: Callable[[], None]) -> None:
        self.inbox: SimpleQueue[Callable[[_Loop[S]], None] | None] = SimpleQueue()
        self._make, self._release = make, release
        self._scheduler: S | None = None
        self._deliveries: dict[int, Delivery] = {}
        self._jobs: list[tuple[Generator[None, None, Any], Future[Any]]] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cadran-engine", daemon=True)
            self._thread.start()
            # A daemon thread inside native code must not outlive the interpreter.
            atexit.register(self._leave)

    def stop(self) -> None:
        """Ask the thread to end; it is not waited for, because this runs in finalizers too."""
        if self._thread is None:
            self._release()
        else:
            self.inbox.put(None)

    def join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _leave(self) -> None:
        self.inbox.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)

    @property
    def current(self) -> S | None:
        return self._scheduler

    @property
    def scheduler(self) -> S:
        if self._scheduler is None:
            self._scheduler = self._make()
        return self._scheduler

    @property
    def _busy(self) -> bool:
        waited_for = bool(self._deliveries or self._jobs)
        return waited_for or (self._scheduler is not None and not self._scheduler.idle)

    def _run(self) -> None:
        try:
            while self._messages():
                self._work()
        finally:
            closed = EngineClosedError("the engine was closed; load the model again")
            for delivery in self._deliveries.values():
                delivery.fail(closed)
            for generator, future in self._jobs:
                generator.close()
                future.set_exception(closed)
            self._deliveries, self._jobs, self._scheduler = {}, [], None
            self._release()
            atexit.unregister(self._leave)

    def _messages(self) -> bool:
        """Do what was sent, waiting for it when there is nothing else to do; False at the end."""
        while True:
            try:
                message = self.inbox.get(block=not self._busy)
            except Empty:
                return True
            if message is None:
                return False
            try:
                message(self)
            except Exception as error:
                self._fail(error)

    def begin(self, delivery: Delivery) -> None:
        try:
            self.scheduler.add(delivery.request)
        except Exception as error:
            delivery.refuse(error)
        else:
            self._deliveries[delivery.request.id] = delivery

    def cancel(self, id: int) -> None:
        if self._deliveries.pop(id, None) is not None:
            self.scheduler.cancel(id)

    def finish(self, id: int, answer: int) -> None:
        delivery = self._deliveries.get(id)
        if delivery is not None and delivery.drop(answer):
            self.scheduler.finish(id, answer)
            if delivery.done:
                del self._deliveries[id]

    def take(self, job: "Job[S, T]", future: "Future[T]") -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._jobs.append((job(self.scheduler), future))
        except Exception as error:
            future.set_exception(error)

    def _work(self) -> None:
        """One step of the requests and one piece of the oldest job."""
        try:
            if not self.scheduler.idle:
                for produced in self.scheduler.step():
                    self._deliver(produced)
            elif self._deliveries:
                raise RuntimeError("the scheduler lost a request")
        except Exception as error:
            self._fail(error)
        if self._jobs:
            self._advance(*self._jobs[0])

    def _deliver(self, produced: Produced) -> None:
        delivery = self._deliveries.get(produced.request)
        if delivery is None:
            return
        if delivery.deliver(produced):
            self.scheduler.finish(produced.request, produced.answer)
        if delivery.done:
            del self._deliveries[produced.request]

    def _advance(self, generator: Generator[None, None, Any], future: "Future[Any]") -> None:
        try:
            next(generator)
        except StopIteration as done:
            self._jobs.pop(0)
            future.set_result(done.value)
        except Exception as error:
            self._jobs.pop(0)
            future.set_exception(error)

    def _fail(self, error: Exception) -> None:
        """End everything that is under way, and begin anew: nobody knows what the blocks hold now."""
        failed, self._deliveries, self._scheduler = self._deliveries, {}, None
        for delivery in failed.values():
            delivery.fail(error)
        for generator, future in self._jobs:
            generator.close()
            future.set_exception(error)
        self._jobs = []
