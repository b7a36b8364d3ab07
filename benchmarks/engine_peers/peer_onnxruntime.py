"""ONNX Runtime GenAI as one side of a benchmark, with a model that its own builder made of the same checkpoint.

Runs in the environment of that peer, so it imports nothing of Cadran: ``worker`` is found through PYTHONPATH.

    python peer_onnxruntime.py FOLDER THREADS
"""

import json
import random
import sys
import time
from typing import Any

import onnxruntime_genai as genai

from worker import serve

VOCABULARY = 8192
"""Ids are drawn below the least vocabulary of the models."""


class OnnxRuntime:
    """A model and one measurement of it.

    Args:
        folder: what the builder wrote.
        threads: of the processor.
    """

    def __init__(self, folder: str, threads: int) -> None:
        config = genai.Config(folder)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)
        self._random = random.Random(0)

    def answer(self, request: str) -> Any:
        """``prefill N`` or ``decode N DEPTH``: tokens/s."""
        what, *numbers = request.split()
        tokens, prompt = int(numbers[0]), int(numbers[-1])
        decoded = 0 if what == "prefill" else tokens
        ids = [self._random.randrange(3, VOCABULARY) for _ in range(max(1, prompt))]
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(ids) + decoded + 1, do_sample=False)
        generator = genai.Generator(self._model, parameters)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        if what == "decode":
            start = time.perf_counter()
            for _ in range(decoded):
                if generator.is_done():
                    raise RuntimeError("the model ended its answer early: no figure")
                generator.generate_next_token()
        return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    serve(OnnxRuntime(sys.argv[1], int(sys.argv[2])).answer)
