"""A server whose answers are written by hand, as events: real HTTP around what the translators are given."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from live import LiveServer

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Finished,
    Prefilled,
    Reasoned,
    Spoke,
    Used,
)

Script = Sequence[Event | float | threading.Event]
"""Events, and between them seconds of waiting, or gates that the test opens."""

USED = Used(prompt_tokens=30, cached_tokens=10, generated_tokens=25, reasoning_tokens=4)
OPENING: list[Event | float] = [Admitted(30), Prefilled(10)]

WHOLE: list[Event | float] = [
    *OPENING,
    Reasoned(0, "Zwei Orte"),
    Reasoned(0, ", zwei Aufrufe."),
    Spoke(0, "Ich sehe "),
    Spoke(0, ""),
    Spoke(0, "nach. 😀\u2028é"),
    CallBegan(0, 0, "one", "weather"),
    CallArguments(0, 0, '{"place": "M'),
    CallArguments(0, 0, 'ünchen {\\"x\\"}"}'),
    CallEnded(0, 0),
    CallBegan(0, 1, "two", "clock"),
    CallArguments(0, 1, "{}"),
    CallEnded(0, 1),
    Finished(0, "tools"),
    USED,
]
"""Reasoning, text and two calls."""


class ScriptedExchange:
    """Tells a script."""

    model = "tiny"

    def __init__(self, script: Script) -> None:
        self._script, self.closed = script, False

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._script:
            if isinstance(event, float):
                await asyncio.sleep(event)
            elif isinstance(event, threading.Event):
                async with asyncio.timeout(60):
                    while not event.is_set():
                        await asyncio.sleep(0.005)
            else:
                yield event

    def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> "ScriptedExchange":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class ScriptedServer(LiveServer):
    """Answers request after request with the scripts it is given, or refuses it with an error.

    Attributes:
        scripts: what comes next.
        asked: what was asked.
        exchanges: what was told.
    """

    def __init__(self, tiny: Path, database: str) -> None:
        self.scripts: list[Script | ApiError] = []
        self.asked: list[GenerateRequest] = []
        self.exchanges: list[ScriptedExchange] = []
        super().__init__(models=[str(tiny)], database=database)
        service: Any = self.service
        service.begin = self._begin

    async def _begin(self, request: GenerateRequest) -> ScriptedExchange:
        self.asked.append(request)
        script = self.scripts.pop(0)
        if isinstance(script, ApiError):
            raise script
        self.exchanges.append(ScriptedExchange(script))
        return self.exchanges[-1]
