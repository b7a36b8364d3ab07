"""llama.cpp as one side of a benchmark, by its own ``llama-bench``: weights read in place, no sampling counted."""

import json
import statistics
import subprocess
from pathlib import Path

from worker import WorkerFailed

REPEATS = 3
"""Measurements of a turn, of which the median counts."""


class LlamaBench:
    """A model and one measurement of it; every call is a process of its own that warms up first.

    Args:
        program: ``llama-bench``.
        path: a GGUF file.
        threads: of the processor.
    """

    def __init__(self, program: Path, path: Path, threads: int) -> None:
        self._command = [str(program), "-m", str(path), "-t", str(threads), "-o", "jsonl", "-r", str(REPEATS)]
        self._flash: dict[str, str] = {}

    def ask(self, request: str) -> float:
        """``prefill N`` or ``decode N DEPTH``: tokens/s, with or without flash attention as was faster at first.

        Raises:
            WorkerFailed: the program ended with an error.
        """
        if request not in self._flash:
            speeds = {flash: self._run(request, flash) for flash in ("on", "off")}
            self._flash[request] = max(speeds, key=lambda flash: speeds[flash])
        return self._run(request, self._flash[request])

    def _run(self, request: str, flash: str) -> float:
        what, *numbers = request.split()
        read, made = (numbers[0], "0") if what == "prefill" else ("0", numbers[0])
        depth = "0" if what == "prefill" else numbers[1]
        command = [*self._command, "-fa", flash, "-p", read, "-n", made, "-d", depth]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            raise WorkerFailed(f"llama-bench: {done.stderr.strip()[-200:]}")
        return statistics.median(json.loads(lines[0])["samples_ts"])

    def close(self) -> None:
        """Nothing stays open between calls."""
