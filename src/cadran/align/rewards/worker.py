"""A child process for what may never return: a user's function, a pattern that backtracks without end, a schema.

A thread cannot be stopped in Python and a regular expression holds the interpreter's lock, so only a process keeps a
time limit. Requests and replies are lines of JSON. No sandbox: what runs here is the user's own.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

LONGEST_LINE = 16 << 20


class TookTooLong(Exception):
    """No reply within the time; the process was killed, and the next request starts another."""


class Died(Exception):
    """The process ended without a reply."""


class Worker:
    """One child process, started by the first request and killed with this object."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[bytes] = queue.Queue()
        self._lock = threading.Lock()
        self._finalizer: Any = None

    @property
    def started(self) -> bool:
        """A process is there, and keeps what was loaded."""
        return self._process is not None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send one request and wait for its reply.

        Args:
            request: see ``worker_process.py``.
            seconds: of wall time.

        Raises:
            TookTooLong, Died: see there; both leave the worker ready for another request.
        """
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = self._replies.get(timeout=seconds)
            except queue.Empty:
                self.close()
                raise TookTooLong from None
            except OSError:
                line = b""
            if not line.endswith(b"\n"):
                self.close()
                raise Died
            reply = json.loads(line)
            assert isinstance(reply, dict)
            return reply

    def close(self) -> None:
        """Kill the process and whatever it started."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the working directory's files must not stand in for the standard library's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cadran.align.rewards.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._replies = queue.Queue()
        threading.Thread(target=_pump, args=(self._process, self._replies), daemon=True).start()
        self._finalizer = weakref.finalize(self, _kill, self._process)
        return self._process


def _pump(process: subprocess.Popen[bytes], replies: "queue.Queue[bytes]") -> None:
    """Move lines from the child to the queue, so that the reader can stop waiting (pipes cannot, on every system)."""
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        while line := process.stdout.readline(LONGEST_LINE):
            replies.put(line)
    replies.put(b"")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
