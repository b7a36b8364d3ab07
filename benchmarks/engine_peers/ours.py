"""Our native core as one side of a benchmark: the runner alone, as the scheduler drives it, sampling included.

python ours.py FILE THREADS
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cadran.engine.bandwidth import read_bandwidth
from cadran.engine.native.runner import NativeRunner
from cadran.engine.runner import Batch, Ints
from cadran.engine.sampler import Sampler, SamplingParams
from process_memory import begin_peak, peak
from worker import serve

CHUNK = 512
"""Most tokens of a prompt that are read at a time."""
BURST = 32
"""Most tokens decoded without coming back."""


class Ours:
    """A runner and one measurement of it.

    Args:
        path: a GGUF file; its repacked copy is made when it is opened for the first time.
        threads: of the processor.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._threads = threads
        before = begin_peak()
        # The peers multiply bytes by bytes, and so does ours here; with 16 bits prompts take twice as long.
        self._runner = NativeRunner.open(Path(path), threads=threads, activations="int8")
        self._random = np.random.default_rng(0)
        self._read(self._ids(CHUNK))
        self._memory = max(1, peak() - before)

    def answer(self, request: str) -> Any:
        """``prefill N`` or ``decode N DEPTH``: tokens/s; ``bandwidth BYTES``: bytes/s that can be read;
        ``memory``: bytes that opening and reading a prompt took at most.
        """
        if request == "memory":
            return self._memory
        what, *numbers = request.split()
        tokens = int(numbers[0])
        if what == "bandwidth":
            return read_bandwidth(self._threads, tokens).bytes_per_second
        if what == "prefill":
            ids = self._ids(tokens)
            start = time.perf_counter()
            self._read(ids)
            return tokens / (time.perf_counter() - start)
        return self._decode(tokens, max(1, int(numbers[1])))

    def _decode(self, tokens: int, depth: int) -> float:
        ids = self._ids(depth)
        sampler = Sampler(SamplingParams(temperature=0, max_tokens=tokens + 1), [int(id) for id in ids])
        last = sampler.choose(self._read(ids)[0], depth).token
        sampler.accept(last)
        taken, stops = 0, [()]
        table = self._table(depth + tokens)
        start = time.perf_counter()
        while taken < tokens:
            position = np.array([depth + taken], np.int32)
            one = np.array([0, 1], np.int32)
            batch = Batch(np.array([last], np.int32), position, one, table, one[:1])
            made = self._runner.burst(batch, [sampler], stops, min(BURST, tokens - taken))
            taken, last = taken + len(made), int(made[-1, 0])
        return tokens / (time.perf_counter() - start)

    def _read(self, ids: Ints) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits after the last token, shape (1, V)."""
        table = self._table(len(ids))
        for first in range(0, len(ids), CHUNK):
            piece = ids[first : first + CHUNK]
            starts = np.array([0, len(piece)], np.int32)
            positions = np.arange(first, first + len(piece), dtype=np.int32)
            last = starts[1:] - 1 if first + CHUNK >= len(ids) else starts[:0]
            logits = self._runner.step(Batch(piece, positions, starts, table, last))
        return logits

    def _table(self, positions: int) -> Ints:
        return np.arange(-(-positions // self._runner.block_size), dtype=np.int32)[None]

    def _ids(self, count: int) -> Ints:
        return self._random.integers(3, self._runner.vocabulary, count, dtype=np.int32)


if __name__ == "__main__":
    serve(Ours(sys.argv[1], int(sys.argv[2])).answer)
