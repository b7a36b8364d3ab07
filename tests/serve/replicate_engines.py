"""Engines for the tests of predictions: one that says what is asked for by number, one that takes its time."""

import time
from typing import Any

from paced import paused

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel

SAYINGS = {
    1: "https://example.org/ is an address. data:text/plain,too",
    2: "  two spaces\nand\n\n\ta tab, é, 😀, and at the end \n",
    3: "cut\u2028here\u2029and\x85there\x0band\x0c\r\nthere\ralone\x1cend",
    4: "data:image/png;base64,AAAA",
    5: "http://example.org",
}
"""What the model says when it is asked with these seeds."""


def saying(known: KnownModel) -> Engine:
    """The real engine, bound by a grammar to say one of ``SAYINGS`` where the seed is one of their numbers."""
    engine = Engine.load(known.path)
    stream = engine.stream

    def bound(prompt: Any, params: Any, **options: Any) -> Any:
        if params.seed in SAYINGS:
            options["grammar"] = {"choice": [SAYINGS[params.seed]]}
        return stream(prompt, params, **options)

    engine.stream = bound  # type: ignore[method-assign, assignment]
    return engine


def slow(known: KnownModel, seconds: float = 0.02) -> Engine:
    """The real engine, with a pause before every step."""
    return paused(Engine.load(known.path), lambda tokens: time.sleep(seconds * tokens))
