"""Run Python that a model wrote against tests, in a process that can neither harm the machine nor fake the verdict.

The layers are in ``confine.py``, the trial itself in ``trial.py``. Started only where the user asked for it (the
``unit_test`` reward); the answer must define functions or classes, which the tests call with plain data.
"""

import ast
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadran.errors import UserError

_MOST_OUTPUT = 64 << 10  # bytes of verdict read
_START_SECONDS = 60.0  # for an interpreter and its layers of protection, on a busy machine
_SPARE_SECONDS = 5  # of CPU time beyond the wall time: that limit is for the case that nobody looks at the clock


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trial may use.

    Attributes:
        seconds: wall time from when the sandbox stands; a busy machine's start is not the answer's. CPU time is limited
            to a few seconds more.
        memory: bytes of address space of each of the two processes.
    """

    seconds: float = 5.0
    memory: int = 512 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one trial.

    Attributes:
        passed: every test ran to its end.
        reason: why not, at most a few hundred characters; "" when passed.
        seconds: wall time.
        protection: the layers in force: namespaces, landlock, seccomp, guard, limits.
    """

    passed: bool
    reason: str
    seconds: float
    protection: tuple[str, ...] = ()


def check_tests(tests: str) -> None:
    """Refuse tests that cannot fail.

    Raises:
        UserError: they do not parse, or hold no ``assert`` and no ``raise``.
    """
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"The tests are no Python ({error}): mend them.") from None
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise UserError("The tests hold no `assert`, so every answer would pass: add one.")


def run_tests(code: str, tests: str, limits: Limits | None = None, *, skip: Collection[str] = ()) -> Outcome:
    """Run an answer's code against tests.

    The tests see the names that the code defines (functions and classes are called across processes, with plain data
    as arguments; names of Python's built-in functions are not replaced). ``test_`` functions of theirs are called.

    Args:
        code: what the model wrote; hostile.
        tests: statements with ``assert``; see ``check_tests``.
        limits: None for the usual ones.
        skip: layers of protection to leave out, so that the others can be tested alone.

    Returns:
        The outcome; whatever the code does, an outcome and no exception.

    Raises:
        UserError: no sandbox can be started on this machine, or the tests cannot fail.
    """
    if os.name != "posix":
        raise UserError("Unit tests of answers need Linux or macOS: take another reward, such as `exact`.")
    check_tests(tests)
    limits = limits or Limits()
    job: dict[str, Any] = {"code": code, "memory": limits.memory, "seconds": int(limits.seconds) + _SPARE_SECONDS}
    head = json.dumps(job | {"skip": sorted(skip), "parent": os.getpid()}).encode()
    script = str(Path(__file__).with_name("trial.py"))
    started = time.monotonic()
    # ignore_cleanup_errors: an answer may take the rights from a folder it made.
    with (
        tempfile.TemporaryDirectory(prefix="cadran-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as given,
    ):
        given.write(head + tests.encode("utf-8", "replace"))
        given.flush()
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", script, str(len(head))],
            stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=folder, env={}, start_new_session=True,
        )  # fmt: skip
        try:
            output, late = _read(process, limits.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()
    return _outcome(output, late, limits.seconds, time.monotonic() - started)


def _read(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bool]:
    """What the child wrote until it closed its output or the time was over; whether it was over.

    The answer's time begins when the child has said what protects it, which is the first that it writes.
    """
    assert process.stdout is not None
    output, deadline = bytearray(), time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) < _MOST_OUTPUT:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return bytes(output), True
            piece = os.read(process.stdout.fileno(), 1 << 14)
            if not piece:
                break
            if not output:
                deadline = time.monotonic() + seconds
            output += piece
    return bytes(output), False


def _outcome(output: bytes, late: bool, seconds: float, took: float) -> Outcome:
    messages: list[dict[str, Any]] = []
    with suppress(ValueError, RecursionError):  # the tests, which are a data set's, may have written there too
        while len(output) >= 4:
            length = int.from_bytes(output[:4], "big")
            body, output = output[4 : 4 + length], output[4 + length :]
            if len(body) < length or not isinstance(message := json.loads(body), dict):
                break
            messages.append(message)
    protection = tuple(map(str, messages[0].get("protection", ()))) if messages else ()
    if len(messages) > 1:
        return Outcome(messages[1].get("passed") is True, str(messages[1].get("reason", "")), took, protection)
    if not messages:
        raise UserError(
            "The sandbox for unit tests does not start on this machine (too little memory allowed, or no right to "
            "start processes): raise `memory_mb:` or take another reward, such as `exact`."
        )
    if late:
        return Outcome(False, f"it ran longer than {seconds:g} seconds", took, protection)
    return Outcome(False, "the tests ended before their last line", took, protection)
