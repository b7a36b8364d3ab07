"""One side of a benchmark in a process of its own, which works only when it is told to.

The parent writes one line to the process's standard input and waits for one line of JSON, so of all workers at most one
computes at any time. Each worker can have another environment, which is how an allocator setting is given to one side
and kept from another.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

PATIENCE = 20.0
"""Seconds an idle worker has to end by itself."""


class WorkerFailed(Exception):
    """The side's own code failed; the message is the error it printed."""


class Worker:
    """A process that answers requests.

    Args:
        name: for error messages.
        command: program and arguments; it must call :func:`serve`.
        environment: what differs from this process's environment; None removes a variable.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str | None]) -> None:
        self.name = name
        merged = {**os.environ, **environment}
        self._process = subprocess.Popen(
            command,
            env={key: value for key, value in merged.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both were asked for
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, request: str) -> Any:
        """Send one line and wait for the answer.

        Raises:
            WorkerFailed: the worker's code raised, or the process is gone.
        """
        try:
            self._requests.write(request + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(f"{self.name}: the process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self.name}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """End the process: first by closing its input, then by force."""
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def serve(answer: Callable[[str], Any]) -> None:
    """Be a worker: answer each line of standard input with ``answer(line)`` until the input ends.

    Standard output carries the answers and nothing else; what libraries print goes to standard error. Freed memory is
    given back to the system after each answer, so that waiting workers do not fill the machine.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                content = {"value": answer(line.rstrip("\n"))}
            except Exception as error:  # whatever a peer raises is that side's answer
                content = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            give_back_memory()
            answers.write(json.dumps(content) + "\n")
            answers.flush()


def give_back_memory() -> None:
    """Return freed heap memory to the system; does nothing where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
