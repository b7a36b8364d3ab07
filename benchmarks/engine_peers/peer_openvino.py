"""OpenVINO GenAI as one side of a benchmark: reads the same GGUF file and recompresses its weights in its own way.

Runs in the environment of that peer, so it imports nothing of Cadran: ``worker`` is found through PYTHONPATH.

    python peer_openvino.py FILE THREADS
"""

import random
import sys
from typing import Any

import numpy as np
import openvino_genai as genai
from openvino import Tensor

from worker import serve

VOCABULARY = 8192
"""Ids are drawn below the least vocabulary of the models."""


class OpenVino:
    """A model behind each of its two kinds of attention, and one measurement of it.

    Args:
        path: a GGUF file.
        threads: of the processor.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._pipelines = {
            backend: genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND=backend)
            for backend in ("PA", "SDPA")
        }
        self._faster: dict[str, str] = {}
        self._random = random.Random(0)

    def answer(self, request: str) -> Any:
        """``prefill N`` or ``decode N DEPTH``: tokens/s, with the attention that was faster at first."""
        if request not in self._faster:
            for _ in range(2):  # the first run compiles
                speeds = {backend: self._speed(request, backend) for backend in self._pipelines}
            self._faster[request] = max(speeds, key=lambda backend: speeds[backend])
        return self._speed(request, self._faster[request])

    def _speed(self, request: str, backend: str) -> float:
        what, *numbers = request.split()
        tokens = int(numbers[0])
        if what == "prefill":
            return float(tokens / self._generate(backend, tokens, 1).get_ttft().mean * 1e3)
        # The first token comes with the prompt: the time between tokens is of those behind it.
        return float(1e3 / self._generate(backend, max(1, int(numbers[1])), tokens + 1).get_tpot().mean)

    def _generate(self, backend: str, prompt: int, tokens: int) -> Any:
        # New ids each time, so that no prefix is found in a cache.
        ids = [[self._random.randrange(3, VOCABULARY) for _ in range(prompt)]]
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        return self._pipelines[backend].generate(Tensor(np.array(ids, dtype=np.int64)), config).perf_metrics


if __name__ == "__main__":
    serve(OpenVino(sys.argv[1], int(sys.argv[2])).answer)
